"""Which versions are wanted, and in which order to come to them without an instant in which none answers.

Steps follow TensorFlow Serving's ``AvailabilityPreservingPolicy``: what is not wanted any more goes when something that
is wanted answers. Two things are added: of each model, at most one version more than wanted is in memory, closing
ones included; and a wanted version is never taken away to make room for itself from another place.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Latest:
    """The ``count`` highest versions; 0 counts as 1."""

    count: int = 1

    def choose(self, versions: Iterable[int]) -> list[int]:
        """Those wanted of the ones there are, in ascending order."""
        return sorted(versions)[-max(self.count, 1) :]


@dataclass(frozen=True)
class All:
    """Every version there is."""

    def choose(self, versions: Iterable[int]) -> list[int]:
        """Those wanted of the ones there are, in ascending order."""
        return sorted(versions)


@dataclass(frozen=True)
class Specific:
    """These versions, as far as they are there."""

    versions: frozenset[int]

    def choose(self, versions: Iterable[int]) -> list[int]:
        """Those wanted of the ones there are, in ascending order."""
        return sorted(self.versions.intersection(versions))


Policy = Latest | All | Specific


class Phase(enum.Enum):
    """Where a version is on its way; finer than the state that is reported."""

    NEW = enum.auto()
    """Nothing was begun."""
    LOADING = enum.auto()
    """A thread loads it, or is about to."""
    WAITING = enum.auto()
    """It failed and is to be tried again."""
    READY = enum.auto()
    """It answers."""
    UNLOADING = enum.auto()
    """It takes no new requests, and is not closed yet."""
    FAILED = enum.auto()
    """It could not be loaded, and is not tried again."""


IN_MEMORY = frozenset({Phase.LOADING, Phase.READY, Phase.UNLOADING})


@dataclass(frozen=True)
class Candidate:
    """A version as the policy sees it.

    :ivar wanted: False also for one whose number is wanted, but from another place than it was loaded from.
    """

    version: int
    wanted: bool
    phase: Phase


def next_step(candidates: Sequence[Candidate]) -> tuple[Literal["load", "unload"], int] | None:
    """What to do next with the versions of one model: ``load`` or ``unload``, and the index of the candidate.

    None if there is nothing to do before something changes.
    """
    wanted = [candidate for candidate in candidates if candidate.wanted]
    numbers = {candidate.version for candidate in wanted}
    surplus = [
        (candidate.version, index)
        for index, candidate in enumerate(candidates)
        # One whose number is wanted goes when that version takes its place.
        if not candidate.wanted and candidate.phase is Phase.READY and candidate.version not in numbers
    ]
    answers = any(candidate.phase is Phase.READY and candidate.version in numbers for candidate in candidates)
    if surplus and (answers or not wanted or len(surplus) > 1):
        return "unload", min(surplus)[1]
    closing = {candidate.version for candidate in candidates if candidate.phase is Phase.UNLOADING}
    new = [
        (candidate.version, index)
        for index, candidate in enumerate(candidates)
        if candidate.wanted and candidate.phase is Phase.NEW and candidate.version not in closing
    ]
    if new and sum(candidate.phase in IN_MEMORY for candidate in candidates) <= len(wanted):
        return "load", max(new)[1]
    return None
