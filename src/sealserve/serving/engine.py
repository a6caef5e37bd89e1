"""What an engine is: something that loads a model version from its files and answers requests with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from sealserve.models.saved_model import DEFAULT_SIGNATURE, Signature, TensorSpec
from sealserve.serving.model_files import ModelFiles
from sealserve.wire.tensorflow_pb2 import SignatureDef

__all__ = [
    "DEFAULT_SIGNATURE",
    "Array",
    "Engine",
    "LoadedModel",
    "RunsTogether",
    "Signature",
    "TensorSpec",
    "Waiting",
    "always",
]

Array = np.ndarray[Any, np.dtype[Any]]


def always() -> bool:
    """Somebody waits for the answer."""
    return True


@dataclass(slots=True, eq=False)
class Waiting:
    """Whether somebody waits, as ``wanted``, and for how long: an engine that can stop in its work stops by then.

    :ivar seconds_left: None where the caller set no deadline.
    """

    is_active: Callable[[], bool]
    seconds_left: Callable[[], float | None]

    def __call__(self) -> bool:
        return self.is_active()


class LoadedModel(Protocol):
    """A model version in memory. Safe to use from several threads."""

    @property
    def platform(self) -> str:
        """The name of the engine that runs it: ``openvino`` or ``tensorflow``."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What can be asked of it, by name."""

    @property
    def signature_definitions(self) -> Mapping[str, SignatureDef]:
        """All signatures as the model's file has them, for its metadata."""

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, Array],
        output_filter: Sequence[str] = (),
        *,
        wanted: Callable[[], bool] = always,
    ) -> dict[str, Array]:
        """Answer one request.

        :param inputs: arrays by the signature's names; they are not changed, and may be read-only.
        :param output_filter: names of the outputs to give; empty for all.
        :param wanted: asked before the work begins; when it says no, the work is not done. A :class:`Waiting` gives
            the deadline too.
        :returns: arrays of their own, by the signature's names.
        :raises RequestError: the request does not fit the signature.
        """

    def close(self) -> None:
        """Let go of what the model holds. No request uses it any more, and none will."""


@runtime_checkable
class RunsTogether(Protocol):
    """A :class:`LoadedModel` that can answer several signatures in one run."""

    def predict_together(
        self,
        outputs: Mapping[str, Sequence[str]],
        inputs: Mapping[str, Array],
        *,
        wanted: Callable[[], bool] = always,
    ) -> dict[str, dict[str, Array]] | None:
        """As :meth:`LoadedModel.predict`, for several signatures.

        :param outputs: the outputs to give, by signature.
        :returns: what each gives; None where they do not read the same tensors, and nothing was run.
        """


class Engine(Protocol):
    """Loads models."""

    def load(self, files: ModelFiles) -> LoadedModel:
        """Load one version.

        :param files: those of the version, ``saved_model.pb`` among them; not needed any more when this returns. An
            engine reads these open files and opens none by a name, which could lead to something that nobody verified.
            It may let go of the graph and the variables in :class:`MemoryFiles` as soon as it has them.
        :raises ModelError: it is no SavedModel, or one that this engine cannot run.
        """
