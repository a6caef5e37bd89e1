"""The replica's side of client attestation: ``sealserve.v1.Attestation/GetEvidence``.

The evidence binds the client's fresh nonce, the public key of the replica's TLS certificate, and what the replica
says it serves now. See ``docs/attestation-protocol.md``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import grpc

from sealserve.evidence import Attester
from sealserve.ratls.binding import client_report_data
from sealserve.serving.errors import RequestError
from sealserve.serving.methods import Service, unary_method
from sealserve.wire.attestation_pb2 import Claims, EvidenceRequest, EvidenceResponse, ServedModel

NONCE_SIZE = 32


class AttestationService:
    """Answers :class:`EvidenceRequest` with a fresh quote.

    :param tls_key: SHA-256 of the SubjectPublicKeyInfo of the key that this replica's TLS servers use.
    :param replica: the replica's name, for people.
    :param models: what it serves, until :meth:`announce` says something else.
    :param shared_tls_key: whether others than this enclave have that key.
    :param receipt_key: of :class:`~sealserve.enclave.receipts.ReceiptKey`; empty where there are no receipts.
    :param answered: told of each answer with evidence, and the seconds that it took.
    """

    def __init__(
        self,
        tls_key: bytes,
        attester: Attester,
        *,
        replica: str,
        models: Sequence[ServedModel] = (),
        receipt_key: bytes = b"",
        shared_tls_key: bool = False,
        answered: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._tls_key = tls_key
        self._attester = attester
        self._replica = replica
        self._receipt_key = receipt_key
        self._shared_tls_key = shared_tls_key
        self._answered = answered
        self.announce(models)

    def announce(self, models: Sequence[ServedModel]) -> None:
        """Say from now on that the replica serves ``models``. Evidence that is being made has either claims, whole."""
        claims = Claims(
            replica=self._replica,
            models=models,
            receipt_key=self._receipt_key,
            shared_tls_key=self._shared_tls_key,
        )
        self._claims = claims.SerializeToString(deterministic=True)

    def service(self) -> Service:
        """The gRPC service, for :func:`~sealserve.serving.grpc_server.create_server`."""
        return Service("sealserve.v1.Attestation", {"GetEvidence": unary_method(self._get_evidence, EvidenceRequest)})

    def _get_evidence(self, request: EvidenceRequest, _: grpc.ServicerContext) -> EvidenceResponse:
        return self.answer(request)

    def answer(self, request: EvidenceRequest) -> EvidenceResponse:
        """Evidence for one nonce, whatever protocol it came by: all of them end in the same TLS key.

        :raises RequestError: the nonce has another size.
        """
        if len(request.nonce) != NONCE_SIZE:
            raise RequestError(f"the nonce must have {NONCE_SIZE} bytes")
        started = time.monotonic()
        claims = self._claims  # once: they may change while the quote is made
        quote = self._attester.quote(client_report_data(request.nonce, self._tls_key, claims))
        self._answered(time.monotonic() - started)
        return EvidenceResponse(quote=quote, claims=claims)
