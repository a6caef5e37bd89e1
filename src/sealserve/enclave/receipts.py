"""The replica's receipt key: made when it starts, named in the claims that every quote for clients is bound to."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec

from sealserve.ratls.receipts import Statement, encode_public_key, key_id, sign
from sealserve.serving.receipts import Exchange


class ReceiptKey:
    """Signs receipts, and nothing else. The key never leaves the process.

    :param tls_key: SHA-256 of the SubjectPublicKeyInfo of the replica's TLS key. :param clock: seconds since 1970.
    :ivar public_key: SubjectPublicKeyInfo (DER), for the claims.
    """

    def __init__(self, tls_key: bytes, *, clock: Callable[[], float] = time.time) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._tls_key = tls_key
        self._clock = clock
        self.public_key = encode_public_key(self._key.public_key())
        self._key_id = key_id(self.public_key)

    def sign(self, exchange: Exchange) -> bytes:
        """A receipt, as ``docs/receipts.md`` specifies it."""
        statement = Statement(
            method=exchange.method,
            request=hashlib.sha256(exchange.request).digest(),
            answer=hashlib.sha256(exchange.answer).digest(),
            model=exchange.model,
            version=exchange.version,
            digest=exchange.digest,
            time=int(self._clock() * 1000),
            nonce=exchange.nonce,
            tls_key=self._tls_key,
        )
        return sign(statement, self._key, self._key_id)
