"""Which keys were judged, by which policy, and when: the memory of a pool of connections, without any I/O.

A key stands for its replica, also on further connections, if an accepted replica says that nobody else has it. A key
that an owner made and granted to several replicas stands for none of them: what was judged then is the connection.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from sealserve.addresses import Address
from sealserve.client.attestation import VerifiedReplica
from sealserve.client.deadline import Deadline
from sealserve.client.errors import DeadlinePassedError
from sealserve.errors import TrustError
from sealserve.evidence import AppraisalPolicy
from sealserve.logs import event, get_logger

_log = get_logger(__name__)
DOUBT_SECONDS = 5.0
"""Answers that are errors cause one question for evidence in this time, and no more."""
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


class Session(Protocol):
    """A connection, as far as it can be remembered.

    :ivar judged: what is known of the replica at its other end, where its key does not say which that is.
    """

    judged: object | None


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

    def find(self, key: bytes, policy: AppraisalPolicy, session: Session | None = None) -> VerifiedReplica | None:
        """The replica with this key at the other end of this connection, if ``policy`` accepted it not too long ago."""
        own = session.judged if session is not None else None
        known = own if isinstance(own, _Judged) else self._judged.get(key)
        if known and known.policy is policy and 0 <= self._clock() - known.asked_at <= self._max_age:
            return known.replica
        self._drop(key, session)
        return None

    def accept(
        self, replica: VerifiedReplica, policy: AppraisalPolicy, asked_at: float, session: Session | None = None
    ) -> None:
        """Keep that ``policy`` accepted a replica, unless something that was learned later says otherwise."""
        event(_log, logging.INFO, "replica-verified", target=str(self._target), replica=replica.name)
        if replica.claims.shared_tls_key:
            if session is not None:
                session.judged = _Judged(replica, policy, asked_at)
            return
        now = self._clock()
        for key, judged in list(self._judged.items()):
            if now - judged.asked_at > self._max_age:
                self._judged.pop(key, None)
        if asked_at < self._outdated.get(replica.spki_digest, asked_at):
            return
        known = self._judged.get(replica.spki_digest)
        if known is None or known.policy is not policy or known.asked_at <= asked_at:
            self._judged[replica.spki_digest] = _Judged(replica, policy, asked_at)

    def doubt(self, key: bytes, session: Session | None = None) -> None:
        """As :meth:`forget`, unless it was asked for in the last seconds: for what may be a sign of another model."""
        own = session.judged if session is not None else None
        known = own if isinstance(own, _Judged) else self._judged.get(key)
        if known is not None and self._clock() - known.asked_at >= DOUBT_SECONDS:
            self.forget(key, session)

    def forget(self, key: bytes, session: Session | None = None) -> None:
        """Ask for evidence again before the next request goes to this key."""
        self._drop(key, session)
        self._outdate(key, self._clock())

    def refuse(self, key: bytes, error: TrustError, asked_at: float, session: Session | None = None) -> None:
        """Tell the log of a refusal. What was accepted of the key before it was asked for this, counts no more."""
        if session is not None:
            session.judged = None
        event(_log, logging.WARNING, "replica-refused", target=str(self._target), reason=error.reason)
        self._outdate(key, asked_at)

    def _drop(self, key: bytes, session: Session | None) -> None:
        self._judged.pop(key, None)
        if session is not None:
            session.judged = None

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
