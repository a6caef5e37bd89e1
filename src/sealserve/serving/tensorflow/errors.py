"""TensorFlow's errors as answers to a request, with their codes."""

from __future__ import annotations

import tensorflow as tf

from sealserve.serving.errors import RequestError

# tensorflow.errors has the numbers of gRPC's status codes (google/rpc/code.proto).
_CODES = {
    number: name
    for name in (
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    )
    for number in [getattr(tf.errors, name)]
}


class ComputationError(RequestError):
    """TensorFlow could not compute the answer; its message and its code."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]


def explain(error: tf.errors.OpError) -> ComputationError:
    """The error for a request that failed while it was computed."""
    return ComputationError(message_of(error), _CODES.get(int(error.error_code), "UNKNOWN"))


def message_of(error: tf.errors.OpError) -> str:
    """TensorFlow's message, without what Python's session adds: where in a Python program a node was made."""
    original = error.__context__ if isinstance(error.__context__, tf.errors.OpError) else error
    return str(original.message)
