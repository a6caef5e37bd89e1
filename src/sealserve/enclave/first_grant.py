"""The grant that a replica starts with, for replicas that nobody starts again: they wait for it.

In a cluster a process that ends is started again, later each time: after some refusals only every five minutes, and
each time with a new enclave. Here the one process asks again. Nothing is decided by that: each time the broker looks at
fresh evidence and answers anew. What it waits for is said in the log, when it begins and at least once a minute.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from sealserve.broker.client import BrokersUnavailableError, GrantRefusedError
from sealserve.broker.grant import Grant
from sealserve.errors import SealserveError
from sealserve.logs import event, get_logger
from sealserve.notify import notify
from sealserve.ratls.contexts import ServerNotTrustedError

_log = get_logger(__name__)

ROUND_SECONDS = 60.0
"""How long brokers that are away are tried before that is said again."""
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 30.0
"""Seconds between a refusal and the next question."""


async def ask_until_granted(ask: Callable[[int], Awaitable[Grant]]) -> Grant:
    """Ask until there is a grant.

    :param ask: asks the brokers for :data:`ROUND_SECONDS`, beginning with the one of this number (counted around).
    :raises SealserveError: what asking again does not change, as when this machine gives no evidence.
    """
    refused = 0
    while True:
        try:
            return await ask(refused)
        except BrokersUnavailableError as error:
            _say("waiting-for-broker", error)
            continue  # it was waited for long enough
        except GrantRefusedError as error:
            _say("grant-refused", error)
        except ServerNotTrustedError as error:
            # Whoever answers at the broker's address is not the owner's: not yet, perhaps, or not any more.
            _say("waiting-for-broker", error)
        pause = min(FIRST_PAUSE * 2.0 ** min(refused, 30), LONGEST_PAUSE)
        refused += 1
        await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, keeps no secret


def _say(name: str, error: SealserveError) -> None:
    notify(STATUS=f"asking again: {error.message}")
    event(_log, logging.WARNING, name, reason=error.message)
