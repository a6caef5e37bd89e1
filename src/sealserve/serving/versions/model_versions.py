"""The versions of one model: which there are, which are wanted, how far each is. The manager has threads and locks."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from sealserve.serving.states import State, VersionStatus, error_code, error_message
from sealserve.serving.versions.configuration import ServedModelConfig
from sealserve.serving.versions.policy import Candidate, Phase

_ENDED_KEPT = 8
"""Versions that are gone, of each model, whose status is still told."""


@dataclass(eq=False)
class Version:
    """One version on its way.

    :ivar config: what it is loaded by. :ivar started: a thread has begun to load it.
    :ivar attempts: to load it, so far. :ivar due: when it is tried again, by the monotonic clock.
    """

    number: int
    config: ServedModelConfig
    phase: Phase = Phase.NEW
    started: bool = False
    attempts: int = 0
    due: float = 0.0
    error: Exception | None = None

    def status(self) -> VersionStatus:
        """As it is reported."""
        match self.phase:
            case Phase.NEW:
                state = State.LOADING if self.attempts else State.START
            case Phase.LOADING:
                state = State.LOADING if self.started else State.START
            case Phase.WAITING:
                state = State.LOADING
            case Phase.READY:
                state = State.AVAILABLE
            case Phase.UNLOADING:
                state = State.UNLOADING
            case Phase.FAILED:
                state = State.END
        if self.error is None:
            return VersionStatus(self.number, state)
        return VersionStatus(self.number, state, error_code(self.error), error_message(self.error))


class ModelVersions:
    """See the module.

    :ivar config: None when the model is configured no more.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.config: ServedModelConfig | None = None
        self.found: list[int] = []
        self.versions: list[Version] = []
        self._chosen: frozenset[int] = frozenset()
        self._ended: deque[VersionStatus] = deque(maxlen=_ENDED_KEPT)

    def update(self, config: ServedModelConfig | None, found: Sequence[int]) -> None:
        """Take note of which versions there are now, and by which configuration they are chosen."""
        self.config = config
        self.found = list(found)
        self._chosen = frozenset(config.policy.choose(found) if config else ())
        for version in list(self.versions):
            if not self.wants(version) and version.phase in {Phase.NEW, Phase.WAITING, Phase.FAILED}:
                self.end(version)
        if config:
            have = {version.number for version in self.versions if self.wants(version)}
            self.versions += [Version(number, config) for number in sorted(self._chosen - have)]

    def try_again(self) -> None:
        """Give versions that failed a new chance."""
        for version in self.versions:
            if version.phase in {Phase.FAILED, Phase.WAITING}:
                version.phase, version.attempts = Phase.NEW, 0

    def wants(self, version: Version) -> bool:
        """Whether this version, from where it was or is to be loaded, is to answer."""
        return (
            self.config is not None
            and version.phase is not Phase.UNLOADING
            and version.number in self._chosen
            and version.config.content == self.config.content
        )

    def candidates(self) -> list[Candidate]:
        """As the policy sees them, in the order of :attr:`versions`."""
        return [Candidate(version.number, self.wants(version), version.phase) for version in self.versions]

    def ready(self) -> list[Version]:
        """Those that answer."""
        return [version for version in self.versions if version.phase is Phase.READY]

    def settled(self) -> bool:
        """Whether nothing is to be waited for: every wanted version answers or failed; or, while one answers, waits to
        be tried again.
        """
        done = {Phase.READY, Phase.FAILED} | ({Phase.WAITING} if self.ready() else set())
        return all(version.phase in done for version in self.versions if self.wants(version))

    def end(self, version: Version) -> None:
        """It is gone, for whatever reason."""
        self.versions.remove(version)
        told = version.status()
        self._ended.append(VersionStatus(version.number, State.END, told.error_code, told.error_message))

    def statuses(self) -> list[VersionStatus]:
        """One for each number: of what answers, else of what was begun last, else of what ended last."""
        by_number = {status.version: status for status in self._ended}
        by_number.update((version.number, version.status()) for version in self.versions)
        by_number.update((version.number, version.status()) for version in self.ready())
        return list(by_number.values())
