"""Which keys were judged, by which policy, and when: the memory of a pool of connections, without any I/O."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from sealserve.addresses import Address
from sealserve.client.attestation import VerifiedReplica
from sealserve.errors import TrustError
from sealserve.evidence import AppraisalPolicy
from sealserve.logs import event, get_logger

_log = get_logger(__name__)


def boot_time() -> float:
    """Seconds on a clock that nobody sets and that goes on while the machine sleeps, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


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
        """Keep that ``policy`` accepted a replica."""
        event(_log, logging.INFO, "replica-verified", target=str(self._target), replica=replica.name)
        now = self._clock()
        for key, judged in list(self._judged.items()):
            if now - judged.asked_at > self._max_age:
                self._judged.pop(key, None)
        self._judged[replica.spki_digest] = _Judged(replica, policy, asked_at)

    def forget(self, key: bytes) -> None:
        """Ask for evidence again before the next request goes to this key."""
        self._judged.pop(key, None)

    def refuse(self, error: TrustError) -> None:
        """Tell the log of a refusal."""
        event(_log, logging.WARNING, "replica-refused", target=str(self._target), reason=error.reason)
