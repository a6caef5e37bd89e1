"""What a caller can get wrong. Each error carries the name of its gRPC status code; messages are TensorFlow Serving's
where it has one, because clients match on them.
"""

from __future__ import annotations

from typing import ClassVar

from sealserve.errors import InputError


class RequestError(InputError):
    """A request cannot be answered as it is."""

    code: ClassVar[str] = "INVALID_ARGUMENT"


class ServableNotFoundError(RequestError):
    """No model of that name, or not in that version, is loaded."""

    code = "NOT_FOUND"


class SignatureNotFoundError(RequestError):
    """The model has no signature of that name, or the engine cannot run it."""

    code = "FAILED_PRECONDITION"


class CallerGoneError(RequestError):
    """The caller cancelled, or its deadline passed, before the work began."""

    code = "CANCELLED"


class NoMessageError(RequestError):
    """The caller ended its request without a message."""

    code = "UNIMPLEMENTED"


class OverloadedError(RequestError):
    """The server has as many requests as it takes at once."""

    code = "RESOURCE_EXHAUSTED"


class UnknownServiceError(RequestError):
    """The server has no service of that name."""

    code = "NOT_FOUND"


class LabelError(RequestError):
    """A label is to stand for a version that is not loaded."""

    code = "FAILED_PRECONDITION"


class ReceiptUnavailableError(RequestError):
    """A caller wants a receipt, and the server gives none for this."""

    code = "FAILED_PRECONDITION"


class ModelsUnavailableError(RequestError):
    """Models of a new configuration could not be loaded."""

    code = "UNKNOWN"


class NotPermittedError(RequestError):
    """The server does not do this for callers."""

    code = "PERMISSION_DENIED"


class UnsupportedError(RequestError):
    """The server does not do what is asked, for anybody."""

    code = "UNIMPLEMENTED"


class NotReadyError(RequestError):
    """The server is not ready for requests yet."""

    code = "UNAVAILABLE"


class StoppingError(RequestError):
    """The server stops, and did not begin with the request. Callers are told so (:mod:`sealserve.wire.not_begun`)."""

    code = "UNAVAILABLE"
