"""What can go wrong between a client and a replica, by cause; each is a leaf of the tree in :mod:`sealserve.errors`."""

from __future__ import annotations

from sealserve.errors import EvidenceError, InputError, PolicyRefusedError, TrustError, UnavailableError


class TargetUnreachableError(UnavailableError):
    """No connection, or no TLS session, can be made to the target."""


class ConnectionLostError(UnavailableError):
    """The connection broke, or the server said that it cannot take requests now. Trying elsewhere is safe."""


class NotProcessedError(ConnectionLostError):
    """As its parent, and it is certain that the server did not begin with the request: repeating it is always safe."""


class DeadlinePassedError(UnavailableError):
    """The time that the caller gave is over."""


class MalformedReplyError(UnavailableError):
    """The peer broke the rules of HTTP/2, of gRPC or of the message that it was to send, or its reply is too large."""


class ServerFaultError(UnavailableError):
    """The server met a fault of its own while it worked on the request."""


class RequestRefusedError(InputError):
    """The server read the request and says that it is wrong; the message is the server's."""


class ModelNotServedError(RequestRefusedError):
    """The server has no model, version or signature of that name."""


class EvidenceMissingError(EvidenceError):
    """What answers at the target gives no evidence: it is no replica, or does not behave like one."""


class StoredEvidenceAlteredError(EvidenceError):
    """A file with evidence says in plain text something else than what its quote is bound to."""


class ReceiptMissingError(EvidenceError):
    """A receipt was asked for, and none came with the answer, or nobody could vouch for it."""


class ReceiptMismatchError(EvidenceError):
    """A receipt is genuine, and for something else: another request, answer, nonce, replica, model or time."""


class ModelNotAcceptedError(PolicyRefusedError):
    """The enclave is accepted, but it serves a model whose digest the policy does not list."""


class ModelChangingError(ModelNotAcceptedError):
    """The replica names a model that the policy lists and one that it does not, as it does while it exchanges them."""


class ModelChangedError(ModelNotAcceptedError):
    """The answer is of a model that the replica names neither before nor after it. Asking again may help."""


class ServerNotAcceptedError(TrustError):
    """The server's certificate does not lead to the roots that were given, or is for another name."""
