"""What becomes of a model version, as TensorFlow Serving's ModelService tells it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sealserve.errors import MachineError, SealserveError, TrustError, UnavailableError
from sealserve.serving.errors import RequestError


class State(enum.IntEnum):
    """The numbers are those of ``tensorflow.serving.ModelVersionStatus.State``."""

    START = 10
    """It is to be loaded."""
    LOADING = 20
    """It is being loaded, or waits to be tried again."""
    AVAILABLE = 30
    """It answers requests."""
    UNLOADING = 40
    """It takes no new requests; those in flight finish."""
    END = 50
    """It is gone, or could not be loaded: then there is an error."""


@dataclass(frozen=True)
class VersionStatus:
    """One version of a model.

    :ivar error_code: the name of a gRPC status code: what kept it from being loaded.
    :ivar error_message: one sentence, without anything of the model's content.
    """

    version: int
    state: State
    error_code: str = "OK"
    error_message: str = ""


def error_code(error: Exception) -> str:
    """The gRPC status code that fits an error met while a version was loaded."""
    match error:
        case RequestError():
            return error.code
        case TrustError():
            return "PERMISSION_DENIED"
        case UnavailableError():
            return "UNAVAILABLE"
        case MachineError() | MemoryError():
            return "RESOURCE_EXHAUSTED"
        case SealserveError():
            return "FAILED_PRECONDITION"
        case _:
            return "INTERNAL"


def error_message(error: Exception) -> str:
    """What went wrong, in words. The text of a foreign exception is left out: it could hold anything."""
    if isinstance(error, SealserveError):
        return f"{error.message.removesuffix('.')}. {error.hint}" if error.hint else error.message
    if isinstance(error, MemoryError):
        return "no memory is left"
    return f"a defect in sealserve or its engine ({type(error).__name__})"
