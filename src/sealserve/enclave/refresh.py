"""Asking the key broker again, for as long as a replica serves: rotation, new models, revocation.

The rules (``docs/broker-protocol.md``, "Asking again"): an answer is followed; silence changes nothing, because a
broker that is down must not stop what it let start; a refusal stops the replica, but only the third in a row, each by
the next of its brokers, so that one broker that is behind the others causes no outage.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import NoReturn

from sealserve.broker.client import GrantRefusedError
from sealserve.broker.grant import Grant
from sealserve.enclave.granted_model import GrantedModel
from sealserve.enclave.serving_tls import ServingTls
from sealserve.errors import BrokerRefusedError, SealserveError, TrustError
from sealserve.logs import event, get_logger

_log = get_logger(__name__)

REFUSALS = 3
"""So many refusals in a row end the service."""
CONFIRM_SECONDS = 5.0
"""How soon the next broker is asked after a refusal."""
DEFAULT_REFRESH_SECONDS = 300
"""How often to ask where the broker does not say."""
_FIRST_RETRY_SECONDS = 1.0
_SPREAD = 0.1


class GrantWithdrawnError(BrokerRefusedError):
    """The key broker does not grant any more what this replica was granted."""


class ModelWithdrawnError(TrustError):
    """The grant does not permit the model that is served any more, and the permitted one cannot be loaded."""


class Refresher:
    """Keeps a replica at what the broker grants.

    :param ask: asks the brokers, beginning with the one of this number (counted around); gives a grant or raises.
    :param model: what is served. :param tls: what it is served with. :param first: the grant that the replica started
        with; wiped already.
    """

    def __init__(
        self, ask: Callable[[int], Awaitable[Grant]], model: GrantedModel, tls: ServingTls, first: Grant
    ) -> None:
        self._ask = ask
        self._model = model
        self._tls = tls
        self._revision = first.revision
        self._interval = float(first.refresh_seconds or DEFAULT_REFRESH_SECONDS)
        self._silent = 0
        self._refused = 0
        self._state: tuple[object, ...] = ()

    async def run(self) -> NoReturn:
        """Ask again and again. To be cancelled; it waits then for a model that is being loaded, which holds keys.

        :raises TrustError: the replica must not go on serving.
        """
        pause = self._interval
        while True:
            await asyncio.sleep(pause * random.uniform(1 - _SPREAD, 1 + _SPREAD))  # noqa: S311 - spreads load
            pause = await self._once()

    async def _once(self) -> float:
        """Ask once. :returns: seconds until the next time."""
        try:
            grant = await self._ask(self._refused)
        except GrantRefusedError as error:
            return self._count_refusal(error)
        except SealserveError as error:
            # No broker answers, none is the owner's, or this machine gives no evidence now.
            self._silent += 1
            self._enter(logging.WARNING, "brokers-unavailable", reason=error.message)
            return min(self._interval, _FIRST_RETRY_SECONDS * 2.0 ** min(self._silent - 1, 30))
        self._silent = 0
        self._interval = float(grant.refresh_seconds or DEFAULT_REFRESH_SECONDS)
        if grant.revision < self._revision:
            grant.wipe()
            self._enter(logging.WARNING, "older-grant-ignored", revision=grant.revision, followed=self._revision)
            return self._interval
        self._revision = grant.revision
        await self._follow(grant)
        return self._interval

    async def _follow(self, grant: Grant) -> None:
        self._tls.follow(grant)
        try:
            await _in_thread(lambda: self._model.take(grant))
        except SealserveError as error:
            self._count_failure(grant, error.message)
        except Exception as error:  # noqa: BLE001 - whatever a new model does to the engine, the old one goes on
            _log.exception("granted-model-unusable")
            self._count_failure(grant, f"a defect: {type(error).__name__}")
        else:
            self._refused = 0
            self._enter(logging.INFO, "grant-followed", grant.revision, revision=grant.revision)

    def _count_refusal(self, error: GrantRefusedError) -> float:
        self._refused += 1
        self._enter(logging.WARNING, "grant-refused", self._refused, in_a_row=self._refused, reason=error.message)
        if self._refused >= REFUSALS:
            raise GrantWithdrawnError(
                f"{REFUSALS} refusals in a row: {error.message}",
                hint="The key broker's audit log says why. If the replica was not meant to stop, mend the policy or "
                "the grant, and start it again.",
            ) from error
        return min(self._interval, CONFIRM_SECONDS)

    def _count_failure(self, grant: Grant, reason: str) -> None:
        if self._model.permitted_by(grant):
            self._refused = 0
            self._enter(logging.WARNING, "granted-model-unusable", reason, reason=reason)
            return
        self._refused += 1
        self._enter(logging.WARNING, "served-model-withdrawn", self._refused, in_a_row=self._refused, reason=reason)
        if self._refused >= REFUSALS:
            raise ModelWithdrawnError(
                f"the grant permits the served model no longer, and the one that it names cannot be had: {reason}",
                hint="Bring the sealed model that the grant names into the storage.",
            )

    def _enter(self, level: int, name: str, *detail: object, **fields: object) -> None:
        """Log a state when it begins, and not for as long as it and its details last."""
        if self._state != (name, *detail):
            self._state = (name, *detail)
            event(_log, level, name, **fields)


async def _in_thread(function: Callable[[], None]) -> None:
    """Run it in a thread. A cancellation waits for its end."""
    running = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
