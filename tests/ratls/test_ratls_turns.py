"""Who came first goes first; and a time limit is for the peer, not for whoever waits for us."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from test_ratls_stream import in_loop

from sealserve.ratls import turns as turns_module
from sealserve.ratls.listener import _patience_with
from sealserve.ratls.turns import Turns


def test_the_oldest_of_those_who_ask_is_woken_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "AT_A_TIME", 1)

    async def body() -> None:
        loop = asyncio.get_running_loop()
        turns = Turns(loop)
        numbers = [turns.number() for _ in range(5)]
        order: list[int] = []

        async def peer(number: int) -> None:
            for _ in range(2):  # two steps each: the first is done with both before the last begins
                waiting: asyncio.Future[None] = loop.create_future()
                turns.ask(number, waiting)
                await waiting
                order.append(number)

        await asyncio.gather(*(peer(number) for number in reversed(numbers)))
        assert order[:2] == [numbers[0]] * 2
        assert order == sorted(order)

    in_loop(body)


def test_whoever_gave_up_holds_up_nobody() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        turns = Turns(loop)
        gone, waiting = loop.create_future(), loop.create_future()
        turns.ask(turns.number(), gone)
        turns.ask(turns.number(), waiting)
        gone.cancel()
        async with asyncio.timeout(5):
            await waiting

    in_loop(body)


@dataclass
class Tcp:
    waits: bool


def test_a_peer_that_waits_for_us_is_not_cut_off() -> None:
    async def body() -> None:
        tcp = Tcp(waits=False)
        async with asyncio.timeout(10), _patience_with(tcp, 0.01):  # type: ignore[arg-type]
            await asyncio.sleep(0.3)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10), _patience_with(Tcp(waits=True), 0.01):  # type: ignore[arg-type]
                await asyncio.sleep(20)

    in_loop(body)
