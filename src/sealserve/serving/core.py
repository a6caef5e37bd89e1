"""The data plane: which models are loaded in which versions, and who answers a request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from sealserve.errors import InputError
from sealserve.serving.answering import note
from sealserve.serving.engine import DEFAULT_SIGNATURE, Array, LoadedModel, always
from sealserve.serving.errors import RequestError, ServableNotFoundError
from sealserve.serving.in_use import LoadedVersion
from sealserve.serving.states import State, VersionStatus
from sealserve.wire.tensorflow_pb2 import SignatureDef

__all__ = ["Answer", "ModelChoice", "ModelServer", "Observer", "State", "Use", "VersionStatus"]


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


class Observer(Protocol):
    """Whoever counts requests."""

    def request(self, model: str, method: str, api: str, status: str, seconds: float) -> None:
        """A request was answered.

        :param model: its name; empty if no such model is served.
        :param method: ``Predict``, or another of the interface.
        :param api: ``GRPC`` or ``REST``. :param status: the name of a gRPC status code.
        """


class ModelServer:
    """Models by name and version. Safe to use from several threads: requests see a version whole or not at all.

    :ivar observer: told of requests by those who take them.
    """

    def __init__(self) -> None:
        self.observer: Observer | None = None
        # Each is replaced, never changed: whoever reads needs no lock.
        self._lock = threading.Lock()
        self._models: Mapping[str, dict[int, LoadedVersion]] = {}
        self._labels: Mapping[str, Mapping[str, int]] = {}
        self._statuses: Mapping[str, Sequence[VersionStatus]] = {}
        self._configured: frozenset[str] | None = None

    @property
    def models(self) -> Mapping[str, Mapping[int, LoadedModel]]:
        """What is loaded now, by name and version."""
        return {
            name: {number: version.loaded for number, version in versions.items()}
            for name, versions in self._models.items()
        }

    @property
    def ready(self) -> bool:
        """Whether every configured model has a version that answers; without :meth:`configure`, whether one answers."""
        models = self._models
        return bool(models) if self._configured is None else all(name in models for name in self._configured)

    def names(self) -> list[str]:
        """The configured models, whether or not a version of them is loaded; without :meth:`configure`, the loaded."""
        return sorted(self._models if self._configured is None else self._configured)

    def configure(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Say which models there are to be, and the labels of each, from one moment to the next.

        :param labels: by model, which version each label stands for. The version need not be loaded.
        """
        with self._lock:
            self._configured = frozenset(labels)
            self._labels = {name: dict(versions) for name, versions in labels.items() if versions}

    def set_labels(self, name: str, labels: Mapping[str, int]) -> None:
        """Exchange the labels of one model."""
        with self._lock:
            self._labels = {**self._labels, name: dict(labels)}

    def labels(self, name: str) -> Mapping[str, int]:
        """The labels of a model, and the version that each stands for."""
        return self._labels.get(name, {})

    def label(self, name: str, label: str) -> int:
        """The version that a label stands for. :raises RequestError: the model has no such label."""
        version = self.labels(name).get(label)
        if version is None:
            raise RequestError(f"Unrecognized servable version label: {label}")
        return version

    def add_model(
        self,
        name: str,
        version: int,
        loaded: LoadedModel,
        *,
        exchange: bool = False,
        closed: Callable[[], None] | None = None,
    ) -> None:
        """Answer requests for ``name`` with a further version; the highest answers those that name none.

        :param exchange: what was loaded under that number, if anything, is removed in the same moment.
        :param closed: called once, when the version was removed, no request uses it and it was closed.
        :raises InputError: the name is empty, the version is negative, or it is loaded already.
        """
        _check(name, version)
        with self._lock:
            versions = dict(self._models.get(name, {}))
            before = versions.pop(version, None)
            if before is not None and not exchange:
                raise InputError(f"version {version} of the model {name} is loaded already")
            versions[version] = LoadedVersion(version, loaded, closed)
            self._models = {**self._models, name: dict(sorted(versions.items()))}
        if before is not None:
            before.remove()

    def replace(self, name: str, version: int, loaded: LoadedModel, *, digest: bytes = b"") -> None:
        """Answer with this version, and with no other model or version, from one moment to the next.

        Requests in flight keep what they began with.

        :param digest: of the sealed model, for receipts.
        :raises InputError: the name is empty or the version is negative.
        """
        _check(name, version)
        with self._lock:
            before = self._models
            self._models = {name: {version: LoadedVersion(version, loaded, digest=digest)}}
        for versions in before.values():
            for removed in versions.values():
                removed.remove()

    def remove_model(self, name: str, version: int) -> None:
        """Answer no new requests with that version; those in flight keep it until they are done, then it is closed.

        :raises ServableNotFoundError: it is not loaded.
        """
        with self._lock:
            versions = dict(self._models.get(name, {}))
            removed = versions.pop(version, None)
            if removed is None:
                raise _not_found(name, version)
            others = {other: loaded for other, loaded in self._models.items() if other != name}
            self._models = {**others, name: versions} if versions else others
        removed.remove()

    def report(self, name: str, statuses: Sequence[VersionStatus]) -> None:
        """Say what becomes of a model's versions, for :meth:`status`; nothing, to forget what was said before."""
        with self._lock:
            others = {other: known for other, known in self._statuses.items() if other != name}
            self._statuses = {**others, name: tuple(statuses)} if statuses else others

    def status(self, choice: ModelChoice) -> list[VersionStatus]:
        """What becomes of a model's versions, or of the one chosen; newest first.

        :raises RequestError: nothing is known of the model or the version.
        """
        known = self._statuses.get(choice.name)
        if known is None:
            known = [VersionStatus(number, State.AVAILABLE) for number in self._models.get(choice.name, {})]
        number = choice.version if choice.label is None else self.label(choice.name, choice.label)
        if number is not None:
            known = [status for status in known if status.version == number]
            if not known:
                raise ServableNotFoundError(f"Could not find version {number} of model {choice.name}")
        if not known:
            raise ServableNotFoundError(f"Could not find any versions of model {choice.name}")
        return sorted(known, key=lambda status: -status.version)

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
        with self.use(choice) as (version, loaded):
            name = signature or DEFAULT_SIGNATURE
            outputs = loaded.predict(name, inputs, output_filter, wanted=wanted)
            return Answer(outputs, version, name)

    def metadata(self, choice: ModelChoice) -> tuple[int, Mapping[str, SignatureDef]]:
        """The version that would answer, and its signatures. :raises RequestError: it is not loaded."""
        with self.use(choice) as (version, loaded):
            return version, loaded.signature_definitions

    def use(self, choice: ModelChoice) -> Use:
        """The version that answers, in a ``with`` block: it is not closed before the block ends.

        :raises RequestError: there is none; when the block is entered.
        """
        return Use(self, choice)

    def take(self, choice: ModelChoice) -> LoadedVersion:
        """The version that answers, with one more request counted; the caller gives it back. See :meth:`use`."""
        while not (version := self._find(choice)).take():
            pass  # it was removed since it was found: look again
        note(choice.name, version)
        return version

    def _find(self, choice: ModelChoice) -> LoadedVersion:
        name = choice.name
        if not name:
            raise RequestError("ModelSpec has no name specified.")
        number = choice.version if choice.label is None else self.label(name, choice.label)
        versions = self._models.get(name)
        if number is None:
            if not versions:
                raise ServableNotFoundError(f"Servable not found for request: Latest({name})")
            return versions[next(reversed(versions))]  # they are sorted
        if not versions or number not in versions:
            raise _not_found(name, number)
        return versions[number]


class Use:
    """See :meth:`ModelServer.use`. A class and no generator: every request passes here."""

    __slots__ = ("_choice", "_core", "_version")

    def __init__(self, core: ModelServer, choice: ModelChoice) -> None:
        self._core = core
        self._choice = choice

    def __enter__(self) -> tuple[int, LoadedModel]:
        self._version = self._core.take(self._choice)
        return self._version.version, self._version.loaded

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._version.give_back()


def _check(name: str, version: int) -> None:
    if not name or version < 0:
        raise InputError(f"not a model's name and version: {name!r}, {version}")


def _not_found(name: str, version: int) -> ServableNotFoundError:
    return ServableNotFoundError(f"Servable not found for request: Specific({name}, {version})")
