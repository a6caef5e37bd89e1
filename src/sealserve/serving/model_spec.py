"""``tensorflow.serving.ModelSpec``: which model a request is for, and which one answered."""

from __future__ import annotations

from sealserve.serving.core import ModelChoice
from sealserve.serving.errors import RequestError
from sealserve.wire.tensorflow_serving_pb2 import ModelSpec

_MOST_NAME = 1024  # characters of a model's name: errors repeat it


def model_choice(spec: ModelSpec) -> ModelChoice:
    """:raises RequestError: the model's name has more than 1024 characters."""
    if len(spec.name) > _MOST_NAME:
        raise RequestError(f"the model's name has {len(spec.name)} characters; at most {_MOST_NAME} are supported")
    match spec.WhichOneof("version_choice"):
        case "version":
            return ModelChoice(spec.name, version=spec.version.value)
        case "version_label":
            return ModelChoice(spec.name, label=spec.version_label)
        case _:
            return ModelChoice(spec.name)


def model_spec(name: str, version: int, signature: str = "") -> ModelSpec:
    """What an answer says of who gave it."""
    spec = ModelSpec()
    fill_model_spec(spec, name, version, signature)
    return spec


def fill_model_spec(spec: ModelSpec, name: str, version: int, signature: str) -> None:
    """The same into an answer's own, which saves a copy."""
    spec.name = name
    spec.signature_name = signature
    spec.version.value = version
