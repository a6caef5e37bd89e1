"""Replicas that give receipts, honest ones and others."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from client_parties import DIGEST, Replica

from sealserve.client.receipts import NONCE_METADATA, RECEIPT_METADATA
from sealserve.enclave.receipts import ReceiptKey
from sealserve.ratls import receipts
from sealserve.ratls.receipts import Statement
from sealserve.wire import attestation_pb2

PREDICT = "/tensorflow.serving.PredictionService/Predict"


class Signing:
    """Makes a replica give receipts.

    ``change`` may change a statement before it is signed, ``tamper`` the receipt after it; ``given`` keeps them.
    """

    def __init__(self, replica: Replica, key: ReceiptKey | None = None, *, named: bool = True) -> None:
        self.replica = replica
        self.key = key or ReceiptKey(replica.identity.spki_digest)
        self.change: Callable[[Statement], Statement] = lambda statement: statement
        self.tamper: Callable[[bytes], bytes | None] = lambda receipt: receipt
        self.given: list[bytes] = []
        self.statements: list[Statement] = []
        self._predict = replica.predict
        replica.predict = self.predict
        if named:
            self.name_key(self.key.public_key)

    def name_key(self, public: bytes) -> None:
        """Name a key in the claims from now on."""
        claims = attestation_pb2.Claims.FromString(self.replica.claims)
        claims.receipt_key = public
        self.replica.claims = claims.SerializeToString()

    def predict(self, request: Any, context: Any) -> Any:
        response = self._predict(request, context)
        nonces = [value for key, value in context.invocation_metadata() if key == NONCE_METADATA]
        if nonces:
            statement = Statement(
                method=PREDICT,
                request=hashlib.sha256(self.replica.inputs[-1]).digest(),
                answer=hashlib.sha256(response.SerializeToString()).digest(),
                model=response.model_spec.name,
                version=response.model_spec.version.value,
                digest=DIGEST,
                time=int(time.time() * 1000),
                nonce=nonces[0],
                tls_key=self.replica.identity.spki_digest,
            )
            self.statements.append(self.change(statement))
            receipt = self.tamper(receipts.sign(self.statements[-1], self.key._key, self.key._key_id))
            if receipt is not None:
                self.given.append(receipt)
                context.set_trailing_metadata(((RECEIPT_METADATA, receipt),))
        return response


def changing(**fields: Any) -> Callable[[Statement], Statement]:
    """Replaces fields of a statement."""
    return lambda statement: replace(statement, **fields)
