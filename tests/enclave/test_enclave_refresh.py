"""When a replica asks again, and what it makes of the answers. Brokers and time are played here."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from sealserve.broker.client import BrokersUnavailableError, GrantRefusedError
from sealserve.broker.grant import Grant, ModelGrant, ReleasedKey
from sealserve.enclave import refresh
from sealserve.enclave.refresh import GrantWithdrawnError, ModelWithdrawnError, Refresher
from sealserve.errors import SealError, TrustError
from sealserve.evidence.errors import AttestationError
from sealserve.secret import Secret

MODEL = ModelGrant("m", 1, b"\x01" * 32, "/models/m", "wrap")
REFUSED = GrantRefusedError("b:1", "not-granted", "77")
SILENT = BrokersUnavailableError([("b:1", "down")], 30)
NO_EVIDENCE = AttestationError("no quote today")


class EndOfStory(Exception):  # noqa: N818 - it is none
    pass


class Model:
    """Takes every grant, unless told otherwise."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.fails: BaseException | None = None
        self.permits = True

    def take(self, grant: Grant) -> None:
        self.taken.append(grant.revision)
        grant.wipe()
        if self.fails:
            raise self.fails

    def permitted_by(self, _: Grant) -> bool:
        return self.permits


class Tls:
    """Owner's certificates have tests of their own."""

    def follow(self, _: Grant) -> None:
        pass


def granted(revision: int = 1, refresh_seconds: int | None = 100) -> Grant:
    keys = {"wrap": ReleasedKey("wrap", 1, Secret(b"k" * 16))}
    return Grant(keys, MODEL, {}, revision=revision, refresh_seconds=refresh_seconds)


class Story:
    """A refresher that gets ``answers`` one after the other: grants, errors, or functions that give either."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model = Model()
        self.pauses: list[float] = []
        self.asked: list[int] = []
        self.given: list[Grant] = []
        monkeypatch.setattr(refresh.random, "uniform", lambda low, high: (low + high) / 2)
        monkeypatch.setattr(refresh.asyncio, "sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def tell(self, *answers: Any, first: Grant | None = None) -> type[BaseException]:
        """:returns: how it ended."""
        left = list(answers)

        async def ask(number: int) -> Grant:
            self.asked.append(number)
            if not left:
                raise EndOfStory
            answer = left.pop(0)
            if callable(answer):
                answer = answer()
            if isinstance(answer, BaseException):
                raise answer
            self.given.append(answer)
            return answer

        with pytest.raises((EndOfStory, TrustError)) as ended:
            asyncio.run(Refresher(ask, self.model, Tls(), first or granted()).run())  # type: ignore[arg-type]
        assert all(len(grant.keys["wrap"].value) == 0 for grant in self.given), "a key was not wiped"
        return ended.type


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Story:
    return Story(monkeypatch)


def test_it_asks_as_often_as_the_last_grant_says(story: Story) -> None:
    assert story.tell(granted(refresh_seconds=7), granted(refresh_seconds=None)) is EndOfStory
    assert story.pauses == [100, 7, refresh.DEFAULT_REFRESH_SECONDS]
    assert story.model.taken == [1, 1]


def test_pauses_are_spread_by_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(monkeypatch)
    spread: list[tuple[float, float]] = []
    monkeypatch.setattr(refresh.random, "uniform", lambda low, high: spread.append((low, high)) or high)
    story.tell(granted())
    assert spread[0] == pytest.approx((0.9, 1.1))
    assert story.pauses == pytest.approx([110, 110])


@pytest.mark.parametrize("error", [SILENT, NO_EVIDENCE])
def test_silence_ends_nothing_and_is_waited_out_with_growing_pauses(
    story: Story, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sealserve")
    assert story.tell(*[error] * 50, granted(), error) is EndOfStory
    assert story.pauses[:9] == [100, 1, 2, 4, 8, 16, 32, 64, 100]
    assert story.pauses[-2:] == [100, 1], "after an answer it begins anew"
    assert [record.message for record in caplog.records] == [
        "brokers-unavailable",
        "grant-followed",
        "brokers-unavailable",
    ]


def test_the_third_refusal_in_a_row_ends_it_each_by_the_next_broker(story: Story) -> None:
    assert story.tell(REFUSED, REFUSED, REFUSED, granted()) is GrantWithdrawnError
    assert story.asked == [0, 1, 2]
    assert story.pauses == [100, refresh.CONFIRM_SECONDS, refresh.CONFIRM_SECONDS]


def test_a_grant_between_refusals_forgives_them_and_silence_does_not(story: Story) -> None:
    assert story.tell(REFUSED, REFUSED, granted(), REFUSED, REFUSED) is EndOfStory
    assert story.asked == [0, 1, 2, 0, 1, 2]
    assert story.tell(REFUSED, SILENT, REFUSED, SILENT, REFUSED) is GrantWithdrawnError


def test_an_older_grant_is_not_followed_and_forgives_nothing(story: Story) -> None:
    answers = (granted(5), lambda: granted(4), REFUSED, REFUSED, lambda: granted(4), REFUSED)
    assert story.tell(*answers) is GrantWithdrawnError
    assert story.model.taken == [5]


@pytest.mark.parametrize("failure", [SealError("damaged"), RuntimeError("a defect of an engine"), MemoryError()])
def test_a_model_that_cannot_be_had_ends_nothing_while_the_old_one_is_permitted(
    story: Story, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    story.model.fails = failure
    assert story.tell(*(granted(2) for _ in range(20))) is EndOfStory
    assert story.model.taken == [2] * 20, "it is tried each time"
    told = [record for record in caplog.records if record.name == refresh.__name__ and "fields" in record.__dict__]
    assert [record.message for record in told] == ["granted-model-unusable"]


def test_a_served_model_that_is_not_permitted_ends_it_at_the_third_time(story: Story) -> None:
    story.model.fails = SealError("not in the storage")
    story.model.permits = False
    assert story.tell(*(granted(2) for _ in range(5))) is ModelWithdrawnError
    assert len(story.model.taken) == 3
    assert story.pauses == [100, 100, 100], "the storage may still be written"


def test_a_model_that_comes_in_time_ends_nothing(story: Story) -> None:
    story.model.permits = False
    story.model.fails = SealError("not in the storage")

    def comes() -> Grant:
        story.model.fails = None
        return granted(2)

    def goes() -> Grant:
        story.model.fails = SealError("not in the storage")
        return granted(3)

    assert story.tell(granted(2), granted(2), comes, goes, granted(3)) is EndOfStory


def test_a_defect_in_asking_ends_it_so_that_it_never_goes_on_unasked(story: Story) -> None:
    async def ask(_: int) -> Grant:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(Refresher(ask, story.model, Tls(), granted()).run())  # type: ignore[arg-type]


def test_a_cancellation_waits_for_the_thread_that_holds_keys() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        begun, gate = asyncio.Event(), threading.Event()
        done: list[int] = []

        class Slow(Model):
            def take(self, grant: Grant) -> None:
                loop.call_soon_threadsafe(begun.set)
                assert gate.wait(10)
                super().take(grant)
                done.append(len(grant.keys["wrap"].value))

        async def ask(_: int) -> Grant:
            return granted(2)

        first = granted(1, refresh_seconds=1)
        task = asyncio.create_task(Refresher(ask, Slow(), Tls(), first).run())  # type: ignore[arg-type]
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == [0]

    asyncio.run(body())
