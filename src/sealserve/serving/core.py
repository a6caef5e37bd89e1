"""The data plane: which models are loaded in which versions, and who answers a request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sealserve.errors import InputError
from sealserve.serving.engine import DEFAULT_SIGNATURE, Array, LoadedModel, always
from sealserve.serving.errors import RequestError, ServableNotFoundError
from sealserve.wire.tensorflow_pb2 import SignatureDef


@dataclass(frozen=True)
class ModelChoice:
    """Which model a request is for.

    :ivar version: None for the highest that is loaded.
    :ivar label: a name for a version, instead of its number.
    """

    name: str
    version: int | None = None
    label: str | None = None


@dataclass(frozen=True)
class Answer:
    """Outputs by name, and who gave them."""

    outputs: dict[str, Array]
    version: int
    signature: str


class ModelServer:
    """Models by name and version. Safe to use from several threads: requests see a version whole or not at all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: Mapping[str, Mapping[int, LoadedModel]] = {}

    @property
    def models(self) -> Mapping[str, Mapping[int, LoadedModel]]:
        """What is loaded now, by name and version."""
        return self._models

    def add_model(self, name: str, version: int, loaded: LoadedModel) -> None:
        """Answer requests for ``name`` with a further version; the highest answers those that name none.

        :raises InputError: the name is empty, the version is negative, or it is loaded already.
        """
        _check(name, version)
        with self._lock:
            versions = dict(self._models.get(name, {}))
            if version in versions:
                raise InputError(f"version {version} of the model {name} is loaded already")
            versions[version] = loaded
            # Replaced, never changed: whoever reads needs no lock.
            self._models = {**self._models, name: dict(sorted(versions.items()))}

    def replace(self, name: str, version: int, loaded: LoadedModel) -> None:
        """Answer with this version, and with no other model or version, from one moment to the next.

        Requests in flight keep what they began with.

        :raises InputError: the name is empty or the version is negative.
        """
        _check(name, version)
        with self._lock:
            self._models = {name: {version: loaded}}

    def remove_model(self, name: str, version: int) -> None:
        """Answer no new requests with that version; those in flight keep it until they are done.

        :raises ServableNotFoundError: it is not loaded.
        """
        with self._lock:
            versions = dict(self._models.get(name, {}))
            if versions.pop(version, None) is None:
                raise ServableNotFoundError(f"Servable not found for request: Specific({name}, {version})")
            others = {other: loaded for other, loaded in self._models.items() if other != name}
            self._models = {**others, name: versions} if versions else others

    def predict(
        self,
        choice: ModelChoice,
        inputs: Mapping[str, Array],
        output_filter: Sequence[str] = (),
        *,
        signature: str = "",
        wanted: Callable[[], bool] = always,
    ) -> Answer:
        """Answer one request; see :meth:`LoadedModel.predict`.

        :param signature: ``serving_default`` if empty.
        :raises RequestError: the model is not loaded, or the request does not fit it.
        """
        version, loaded = self.find(choice)
        name = signature or DEFAULT_SIGNATURE
        outputs = loaded.predict(name, inputs, output_filter, wanted=wanted)
        return Answer(outputs, version, name)

    def metadata(self, choice: ModelChoice) -> tuple[int, Mapping[str, SignatureDef]]:
        """The version that would answer, and its signatures. :raises RequestError: it is not loaded."""
        version, loaded = self.find(choice)
        return version, loaded.signature_definitions

    def find(self, choice: ModelChoice) -> tuple[int, LoadedModel]:
        """The version that answers. :raises RequestError: there is none."""
        if not choice.name:
            raise RequestError("ModelSpec has no name specified.")
        if choice.label is not None:
            raise RequestError(f"Unrecognized servable version label: {choice.label}")
        versions = self._models.get(choice.name, {})
        if choice.version is None:
            if not versions:
                raise ServableNotFoundError(f"Servable not found for request: Latest({choice.name})")
            version = max(versions)
        else:
            version = choice.version
            if version not in versions:
                raise ServableNotFoundError(f"Servable not found for request: Specific({choice.name}, {version})")
        return version, versions[version]


def _check(name: str, version: int) -> None:
    if not name or version < 0:
        raise InputError(f"not a model's name and version: {name!r}, {version}")
