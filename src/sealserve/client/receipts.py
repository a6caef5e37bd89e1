"""Receipts: asking for one, and checking it before the answer is given (``docs/receipts.md``)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sealserve.client.attestation import VerifiedReplica
from sealserve.client.errors import ModelNotAcceptedError, ReceiptMismatchError, ReceiptMissingError
from sealserve.client.headers import Metadata
from sealserve.client.kept import presented_as_dict
from sealserve.client.protocols import Exchange, UnaryCall
from sealserve.client.reply import Reply
from sealserve.client.status import printable
from sealserve.errors import InputError
from sealserve.evidence import AppraisalPolicy
from sealserve.files import write_atomically
from sealserve.ratls import receipts
from sealserve.ratls.receipts import Statement

FORMAT = "sealserve-receipt/1"
NONCE_METADATA, RECEIPT_METADATA = "sealserve-receipt-nonce-bin", "sealserve-receipt-bin"
MOST_SKEW = 300.0
"""Seconds by which the time in a fresh receipt may differ from this machine's clock."""

_NONCE_SIZE = 32
_HINT = "Do not use the answer; tell whoever runs the replica."

Parts = Sequence[bytes | memoryview]


@dataclass(frozen=True)
class Receipt:
    """A receipt that was checked, and what it is for.

    :param data: the receipt itself. :param replica: who signed it, and its evidence.
    :param request: the message that was sent, in parts: they are the caller's own arrays. :param answer: that came.
    """

    statement: Statement
    data: bytes
    replica: VerifiedReplica
    request: Parts = field(repr=False)  # inputs are not for logs
    answer: bytes | memoryview = field(repr=False)

    @property
    def at(self) -> datetime:
        """The time in it, UTC: the replica's host's word, and close to this machine's clock when it came."""
        return datetime.fromtimestamp(self.statement.time / 1000, UTC)

    def as_dict(self, *, messages: bool = False) -> dict[str, Any]:
        """What :meth:`save` writes; errors as there."""
        presented, collateral = self.replica.presented, self.replica.collateral
        if presented is None or collateral is None:
            raise InputError("the evidence of this receipt was not kept")
        out: dict[str, Any] = {
            "format": FORMAT,
            "receipt": self.data.hex(),
            "evidence": presented_as_dict(presented),
            "collateral": json.loads(collateral.text),
        }
        if messages:
            request = b"".join(self.request)
            if hashlib.sha256(request).digest() != self.statement.request:
                raise InputError(
                    "the inputs are not what they were when they were sent",
                    hint="Save the receipt before you change the arrays, or save it without the messages.",
                )
            for name, message in (("request", request), ("answer", bytes(self.answer))):
                out[name] = base64.b64encode(message).decode("ascii")
        return out

    def save(self, path: Path, *, messages: bool = False) -> None:
        """Write a file that `sealserve verify receipt` checks, later and elsewhere.

        :param messages: with request and answer. Whoever gets the file reads the input then.
        :raises InputError: the arrays that were sent have changed. :raises SealserveError: the file cannot be written.
        """
        write_atomically(path, json.dumps(self.as_dict(messages=messages), indent=1) + "\n")


def with_wish(call: Exchange, policy: AppraisalPolicy | None) -> tuple[UnaryCall, ReceiptWish]:
    """A call that asks for a receipt, and what checks it.

    :raises InputError: it is no call over gRPC; or there is no policy, and nobody would know whose signature it is.
    """
    if policy is None:
        raise InputError("a receipt was asked for without evidence", hint="Use Client, with a policy.")
    if not isinstance(call, UnaryCall):
        raise InputError("there are no receipts over REST", hint="Give host:port as the target: that of gRPC.")
    wish = ReceiptWish(call.method, call.message)
    return replace(call, metadata=(*call.metadata, *wish.metadata)), wish


class ReceiptWish:
    """A receipt that is asked for with one call.

    :param method: ``/package.Service/Method``. :param message: what is sent, in parts.
    :ivar receipt: when it was checked. :ivar metadata: to be sent with the call.
    """

    def __init__(self, method: str, message: Parts) -> None:
        self._method = method
        self._message = message
        self._digest: bytes | None = None
        self._nonce = secrets.token_bytes(_NONCE_SIZE)
        self.metadata: Metadata = ((NONCE_METADATA, self._nonce),)
        self.receipt: Receipt | None = None

    @property
    def size(self) -> int:
        """Bytes of the message."""
        return sum(memoryview(part).nbytes for part in self._message)

    def hash_request(self) -> bytes:
        """The digest of what is sent; best called while the server works, for a large message takes some time."""
        if self._digest is None:
            digest = hashlib.sha256()
            for part in self._message:
                digest.update(part)
            self._digest = digest.digest()
        return self._digest

    def check(
        self,
        reply: Reply,
        replica: VerifiedReplica,
        policy: AppraisalPolicy | None,
        *,
        answered: Iterable[tuple[str, int]] = (),
    ) -> Receipt:
        """Check the receipt that came with a reply.

        :param replica: whose TLS key the connection has, accepted by ``policy``.
        :param answered: models and versions that the answer itself names.
        :raises ReceiptMissingError: there is none, or the replica's evidence names no key for it.
        :raises EvidenceError: it is malformed, signed by another key, or for something else.
        :raises ModelNotAcceptedError: the model that answered is not on the policy's list.
        """
        found = [value for name, value in reply.trailing_metadata if name == RECEIPT_METADATA]
        if len(found) != 1 or not isinstance(found[0], bytes):
            raise ReceiptMissingError("a receipt was asked for, and the answer came without one", hint=_HINT)
        if not replica.claims.receipt_key:
            raise ReceiptMissingError("the replica's evidence names no key that signs receipts", hint=_HINT)
        statement = receipts.read(found[0]).verify(replica.claims.receipt_key)
        require_same("method", statement.method, self._method)
        require_same("nonce", statement.nonce, self._nonce)
        require_same("request", statement.request, self.hash_request())
        require_same("answer", statement.answer, hashlib.sha256(reply.message).digest())
        require_same("TLS key", statement.tls_key, replica.spki_digest)
        for named in answered:
            require_same("model and version", (statement.model, statement.version), named)
        check_time(statement, time.time())
        check_model(statement, policy)
        self.receipt = Receipt(statement, found[0], replica, self._message, reply.message)
        return self.receipt


def require_same(what: str, told: object, true: object) -> None:
    """:raises ReceiptMismatchError: a receipt says something else than what is."""
    same = hmac.compare_digest(told, true) if isinstance(told, bytes) and isinstance(true, bytes) else told == true
    if not same:
        raise ReceiptMismatchError(f"the receipt is for another {what}", hint=_HINT)


def check_time(statement: Statement, now: float) -> None:
    """:raises ReceiptMismatchError: the receipt's time is not about ``now``."""
    if abs(statement.time / 1000 - now) > MOST_SKEW:
        raise ReceiptMismatchError(
            f"the receipt's time differs from this machine's clock by more than {MOST_SKEW:.0f} seconds",
            hint="Check the clocks of this machine and of the replica's host.",
        )


def check_model(statement: Statement, policy: AppraisalPolicy | None) -> None:
    """:raises ModelNotAcceptedError: the policy lists models, and not the one that answered."""
    if policy is not None and policy.models and statement.digest not in policy.models:
        raise ModelNotAcceptedError(
            f"the answer is of {printable(statement.model)} version {statement.version} ({statement.digest.hex()}), "
            "which the policy's models do not list",
            hint="If the model was changed on purpose, add its digest to `models` in the policy.",
        )
