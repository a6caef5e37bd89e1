"""The broker renews collateral by itself, and never waits for it on its event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from broker_parties import Place, ask, in_loop, running

from sealserve.broker import renewal
from sealserve.errors import MachineError
from sealserve.evidence import AppraisalPolicy
from sealserve.ratls import TlsIdentity

NOW = datetime.now(UTC)


class Policy:
    """A policy whose service takes as long as it likes."""

    name = "policy"

    def __init__(self, expires: datetime | None = NOW + timedelta(days=30)) -> None:
        self.expires = expires
        self.asked = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def refresh_collateral(self) -> int:
        self.may_answer.wait(20)
        self.asked += 1
        return 1

    def collateral_status(self) -> Any:
        return [SimpleNamespace(expires=self.expires)]

    def collateral_expiry(self) -> dict[str, datetime | None]:
        return {"sgx 00606a000000": self.expires}


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - set from another thread
            await asyncio.sleep(0.005)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(renewal, "LONGEST_PAUSE", 0.02)


def test_it_is_renewed_again_and_again_and_the_loop_goes_on(quick: None) -> None:
    async def body() -> None:
        policy = Policy()
        task = asyncio.create_task(renewal.keep_collateral_fresh(lambda: [policy]))  # type: ignore[list-item]
        await until(lambda: policy.asked >= 3)
        policy.may_answer.clear()
        await asyncio.sleep(0.1)  # it would not return if the loop waited for the service
        policy.may_answer.set()
        await until(lambda: policy.asked >= 5)
        task.cancel()

    in_loop(body)


def test_a_store_that_cannot_be_trusted_and_a_defect_do_not_end_it(quick: None) -> None:
    async def body() -> None:
        policy = Policy()
        raised: list[Exception] = [MachineError("the store was changed"), RuntimeError("a defect")]

        def policies() -> Any:
            if raised:
                raise raised.pop()
            return [policy]

        task = asyncio.create_task(renewal.keep_collateral_fresh(policies))
        await until(lambda: policy.asked >= 1)
        task.cancel()

    in_loop(body)


@pytest.mark.parametrize(
    ("left", "pause"),
    [(timedelta(days=30), 3600), (timedelta(hours=4), 1800), (timedelta(minutes=1), 60), (timedelta(days=-1), 60)],
)
def test_it_looks_every_hour_and_more_often_before_it_expires(left: timedelta, pause: float) -> None:
    other = Policy(NOW + timedelta(days=60))
    assert renewal.pause_until(NOW, [Policy(NOW + left), other]) == pause  # type: ignore[list-item]
    assert renewal.pause_until(NOW, []) == 3600
    assert renewal.pause_until(NOW, [Policy(None)]) == 3600  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("expires", "told"),
    [
        (NOW + timedelta(days=30), None),
        (NOW + timedelta(days=1), ("collateral-expires", logging.WARNING)),
        (NOW - timedelta(days=1), ("collateral-unusable", logging.ERROR)),
        (None, ("collateral-unusable", logging.ERROR)),
    ],
)
def test_what_expires_soon_is_told(
    expires: datetime | None, told: tuple[str, int] | None, caplog: pytest.LogCaptureFixture
) -> None:
    renewal._renew([Policy(expires)])  # type: ignore[list-item]
    assert [(record.msg, record.levelno) for record in caplog.records] == ([told] if told else [])


def test_a_running_broker_renews_the_collateral_of_its_policies(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        with mock.patch.object(AppraisalPolicy, "refresh_collateral", return_value=0) as refresh:
            async with running(place) as broker:
                await until(lambda: refresh.call_count == 1)
                await ask(place, broker, identity)

    in_loop(body)
