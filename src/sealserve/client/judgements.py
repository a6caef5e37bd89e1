"""Which keys were judged, by which policy, and when: the memory of a pool of connections, without any I/O."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sealserve.addresses import Address
from sealserve.client.attestation import VerifiedReplica
from sealserve.client.deadline import Deadline
from sealserve.client.errors import DeadlinePassedError
from sealserve.errors import TrustError
from sealserve.evidence import AppraisalPolicy
from sealserve.logs import event, get_logger

_log = get_logger(__name__)
_CHANGE_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def boot_time() -> float:
    """Seconds on a clock that nobody sets and that goes on while the machine sleeps, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def pauses_of_a_change(deadline: Deadline) -> Iterator[float]:
    """Seconds to wait before evidence is asked for again, while a replica exchanges its model.

    It names both models then, for as long as either may answer: until the requests end that the old one has. A replica
    that goes on to name both is not waited for any longer than about two seconds, nor beyond ``deadline``.
    """
    for pause in _CHANGE_PAUSES:
        try:
            if deadline.remaining("waiting for a model to be exchanged") <= pause:
                return
        except DeadlinePassedError:
            return
        yield pause


@dataclass(frozen=True)
class _Judged:
    replica: VerifiedReplica
    policy: AppraisalPolicy
    asked_at: float  # before the nonce left, so that age is never understated


class Judgements:
    """:param max_age: seconds after which a key is to be judged again. :param clock: by which evidence ages."""

    def __init__(self, target: Address, *, max_age: float, clock: Callable[[], float] = boot_time) -> None:
        self._target = target
        self._max_age = max_age
        self._clock = clock
        self._judged: dict[bytes, _Judged] = {}
        self._outdated: dict[bytes, float] = {}  # by key: what was asked before that moment counts no more

    def now(self) -> float:
        """To be taken before evidence is asked for, and given to :meth:`accept`."""
        return self._clock()

    def find(self, key: bytes, policy: AppraisalPolicy) -> VerifiedReplica | None:
        """The replica with this key, if ``policy`` accepted it not too long ago."""
        known = self._judged.get(key)
        if known and known.policy is policy and 0 <= self._clock() - known.asked_at <= self._max_age:
            return known.replica
        self._judged.pop(key, None)
        return None

    def accept(self, replica: VerifiedReplica, policy: AppraisalPolicy, asked_at: float) -> None:
        """Keep that ``policy`` accepted a replica, unless something that was learned later says otherwise."""
        event(_log, logging.INFO, "replica-verified", target=str(self._target), replica=replica.name)
        now = self._clock()
        for key, judged in list(self._judged.items()):
            if now - judged.asked_at > self._max_age:
                self._judged.pop(key, None)
        if asked_at < self._outdated.get(replica.spki_digest, asked_at):
            return
        known = self._judged.get(replica.spki_digest)
        if known is None or known.policy is not policy or known.asked_at <= asked_at:
            self._judged[replica.spki_digest] = _Judged(replica, policy, asked_at)

    def forget(self, key: bytes) -> None:
        """Ask for evidence again before the next request goes to this key."""
        self._outdate(key, self._clock())

    def refuse(self, key: bytes, error: TrustError, asked_at: float) -> None:
        """Tell the log of a refusal. What was accepted of the key before it was asked for this, counts no more."""
        event(_log, logging.WARNING, "replica-refused", target=str(self._target), reason=error.reason)
        self._outdate(key, asked_at)

    def _outdate(self, key: bytes, moment: float) -> None:
        now = self._clock()
        for other, outdated in list(self._outdated.items()):
            if now - outdated > self._max_age:
                self._outdated.pop(other, None)
        # Callers work at the same time: evidence that was asked for earlier may be accepted later.
        self._outdated[key] = max(moment, self._outdated.get(key, moment))
        known = self._judged.get(key)
        if known is not None and known.asked_at <= moment:
            self._judged.pop(key, None)
