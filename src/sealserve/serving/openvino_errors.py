"""OpenVINO's errors in the words of whoever has the model."""

from __future__ import annotations

import re

from sealserve.errors import ModelError

_UNKNOWN = re.compile(r"No conversion rule found for operations?: (?P<operations>[^\n]+)")
_FAILED = re.compile(r"Conversion is failed for:? (?P<operations>[^\n]+)")
_NOISE = re.compile(r"^(Exception from |Check '|FrontEnd API failed|Summary:|$)")

USE_TENSORFLOW = (
    "Choose the other engine for this model, which has all of TensorFlow's operations: `engine: tensorflow`"
)
"""A hint, to be ended or continued."""


def explain_conversion_error(
    error: Exception, signature: str, hint: str = f"{USE_TENSORFLOW}; or export the model without this."
) -> ModelError:
    """The error for a graph that OpenVINO cannot read or compile; names its operations where OpenVINO does."""
    text = str(error)
    operations = [
        operation.strip()
        for pattern in (_UNKNOWN, _FAILED)
        for match in pattern.finditer(text)
        for operation in match["operations"].split(",")
    ]
    if operations:
        names = ", ".join(dict.fromkeys(operations))
        plural = "s" if len(set(operations)) > 1 else ""
        return ModelError(
            f"OpenVINO cannot run the signature {signature}: it cannot convert the operation{plural} {names}",
            hint=hint,
        )
    return ModelError(
        f"OpenVINO cannot run the signature {signature}: {summary(text)}",
        hint=hint,
    )


def summary(text: str) -> str:
    """The first line of an OpenVINO message that is for its user and not about OpenVINO's source."""
    lines = [line.strip() for line in text.splitlines()]
    return next((line for line in lines if not _NOISE.match(line)), "unknown reason")
