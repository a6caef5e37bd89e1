"""When a call is tried again, and after which pause; shared by the synchronous and the asyncio client."""

from __future__ import annotations

import random

from sealserve.client.deadline import Deadline
from sealserve.client.errors import (
    ConnectionLostError,
    DeadlinePassedError,
    ModelChangedError,
    NotProcessedError,
    TargetUnreachableError,
)

# A request that reached a server this often without an answer is not sent again: it may be what fells the replicas.
_SENDINGS = 3
# A target that never answered gets this many tries: one balanced server may be down. One that has, is waited for.
_FIRST_TRIES = 3
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0

RETRIED = (TargetUnreachableError, ConnectionLostError, DeadlinePassedError, ModelChangedError)
"""The errors after which another replica, or a later moment, may answer.

A refusal of trust is none of them, but for an answer that an exchange of models has overtaken: whoever is asked again
is checked again.
"""


class Retries:
    """Counts the tries of one call.

    :param repeatable: whether the call may reach a server twice. If not, it is tried again only when it is certain that
        no server began with it.
    """

    def __init__(self, deadline: Deadline, *, repeatable: bool) -> None:
        self._deadline = deadline
        self._repeatable = repeatable
        self._tries = self._sendings = 0
        self._cause: Exception | None = None

    def pause_after(self, error: Exception, *, sent: bool, reached: bool, answered: bool = False) -> float:
        """How long to wait before the next try, in seconds: longer each time, and not in step with other clients.

        :param sent: whether the request may have reached a server in this try.
        :param answered: whether one has answered it, so that the error is of what was asked about the answer.
        :param reached: whether the target ever answered.
        :raises: ``error`` itself, if there is to be no other try. If the deadline comes first, the last error that
            says more than that time ran out.
        """
        self._tries += 1
        if not isinstance(error, DeadlinePassedError):
            self._cause = error
        if sent and (answered or not isinstance(error, NotProcessedError)):
            self._sendings += 1
            if not self._repeatable:
                raise error
        if self._sendings >= _SENDINGS or (not reached and self._tries >= _FIRST_TRIES):
            raise error
        pause = min(_FIRST_PAUSE * 2.0 ** min(self._tries - 1, 10), _LONGEST_PAUSE)
        pause *= random.uniform(0.5, 1.0)  # noqa: S311 - nobody gains from guessing it
        try:
            left = self._deadline.remaining("trying again")
        except DeadlinePassedError:
            raise (self._cause or error) from None
        if left <= pause:
            raise self._cause or error
        return pause
