"""Receipts for answers, where the caller asks for one: gRPC's part, without knowing who signs them or why.

A request that carries :data:`NONCE` gets, with its answer, trailing metadata :data:`RECEIPT` (``docs/receipts.md``).
Digests are over messages as they travel. What answered is known from the data plane, not from the answer: a version
may be exchanged while it works (:mod:`sealserve.serving.answering`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sealserve.serving.errors import ReceiptUnavailableError, RequestError

if TYPE_CHECKING:
    import grpc

    from sealserve.serving.in_use import LoadedVersion

NONCE = "sealserve-receipt-nonce-bin"
RECEIPT = "sealserve-receipt-bin"
_SHORTEST, _LONGEST = 16, 64  # bytes of a nonce


@dataclass(frozen=True)
class Exchange:
    """A request and its answer.

    :ivar method: ``/package.Service/Method``. :ivar request: the message, as it arrived. :ivar answer: as it is sent.
    :ivar model: the name of the model that answered. :ivar digest: of what was loaded as its ``version``.
    """

    method: str
    request: bytes
    answer: bytes
    model: str
    version: int
    digest: bytes
    nonce: bytes


class ReceiptSigner(Protocol):
    """Whoever vouches for answers. Safe to use from several threads."""

    def sign(self, exchange: Exchange) -> bytes:
        """A receipt of at most 4096 bytes."""


@dataclass(frozen=True)
class Wish:
    """That a request's caller wants a receipt."""

    signer: ReceiptSigner
    method: str
    nonce: bytes

    def grant(
        self, request: bytes, answer: bytes, used: list[tuple[str, LoadedVersion]], context: grpc.ServicerContext
    ) -> None:
        """Send a receipt after the answer.

        :param used: what answered. :raises ReceiptUnavailableError: that is no single model of a known digest.
        """
        if len(used) != 1:
            raise ReceiptUnavailableError(
                "there are no receipts for answers of this method: no single model gives them"
            )
        name, version = used[0]
        if not version.digest:
            raise ReceiptUnavailableError(f"there are no receipts for the model {name}: it has no digest")
        exchange = Exchange(self.method, request, answer, name, version.version, version.digest, self.nonce)
        context.set_trailing_metadata(((RECEIPT, self.signer.sign(exchange)),))


def wish_of(context: grpc.ServicerContext, signer: ReceiptSigner | None, method: str) -> Wish | None:
    """What the request's metadata say; None if they ask for no receipt.

    :raises ReceiptUnavailableError: they do, and this server gives none. :raises RequestError: the nonce is malformed.
    """
    nonces = [value for key, value in context.invocation_metadata() if key == NONCE]
    if not nonces:
        return None
    if signer is None:
        raise ReceiptUnavailableError(
            "this server gives no receipts: it runs in no enclave that could vouch for answers"
        )
    nonce = nonces[0]
    if len(nonces) > 1 or not isinstance(nonce, bytes) or not _SHORTEST <= len(nonce) <= _LONGEST:
        raise RequestError(f"{NONCE} must be there once, with {_SHORTEST} to {_LONGEST} bytes")
    return Wish(signer, method, nonce)
