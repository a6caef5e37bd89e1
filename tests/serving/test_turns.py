"""Taking turns."""

from __future__ import annotations

import threading
import time

import pytest

from sealserve.serving.errors import CallerGoneError
from sealserve.serving.turns import Turns


def wait_until(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def start_waiting(turns: Turns[str], name: str, order: list[str], wanted=lambda: True) -> threading.Thread:
    def run():
        try:
            turns.take(wanted)
        except CallerGoneError:
            order.append(f"{name} is gone")
        else:
            order.append(name)

    before = len(turns._waiting)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_until(lambda: len(turns._waiting) > before)
    return thread


def test_who_waited_longest_is_next_however_often_it_looked_whether_it_is_wanted():
    turns = Turns(["thing"])
    thing = turns.take(lambda: True)
    order: list[str] = []
    looked = threading.Event()
    threads = [start_waiting(turns, "first", order, lambda: looked.set() or True)]
    looked.clear()
    looked.wait(10)  # a look from the queue, after which a place at its end would be wrong
    threads += [start_waiting(turns, name, order) for name in ("second", "third")]
    for count in (1, 2, 3):
        turns.give_back(thing)
        wait_until(lambda count=count: len(order) == count)
    assert order == ["first", "second", "third"]
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


def test_who_is_not_wanted_any_more_leaves_and_the_next_moves_up():
    turns = Turns(["thing"])
    thing = turns.take(lambda: True)
    order: list[str] = []
    wanted = True
    start_waiting(turns, "first", order, lambda: wanted)
    start_waiting(turns, "second", order)
    wanted = False
    wait_until(lambda: order == ["first is gone"])
    turns.give_back(thing)
    wait_until(lambda: order == ["first is gone", "second"])


def test_nobody_takes_a_turn_for_a_caller_that_is_gone():
    turns = Turns(["thing"])
    with pytest.raises(CallerGoneError):
        turns.take(lambda: False)
    assert turns.take(lambda: True) == "thing"


def test_a_thing_that_comes_while_its_caller_leaves_goes_to_the_next():
    turns = Turns(["thing"])
    thing = turns.take(lambda: True)
    looks = 0

    def wanted() -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            return True
        turns.give_back(thing)  # between the look and the leaving
        return False

    with pytest.raises(CallerGoneError):
        turns.take(wanted)
    assert turns.take(lambda: True) == "thing"


def test_several_threads_never_have_one_thing_at_once():
    turns = Turns(range(3))
    held: set[int] = set()
    faults: list[int] = []

    def run():
        for _ in range(300):
            thing = turns.take(lambda: True)
            if thing in held:
                faults.append(thing)
            held.add(thing)
            held.discard(thing)
            turns.give_back(thing)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not faults
    assert sorted(turns.take(lambda: True) for _ in range(3)) == [0, 1, 2]
