"""Killing processes that write a store, and what must be true of it afterwards."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import time
from pathlib import Path

from store_worker import change_for_ever

from sealserve.broker.audit import line_hash
from sealserve.broker.store import MasterKeyPlace, Store

# Children are forked from a process that has imported everything, so that starting one takes no time.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["sealserve.broker.administration"])


class Worker:
    """A process that changes the store until it is killed."""

    def __init__(self, location: str, master: Path, name: str) -> None:
        self.told, tell = _context.Pipe(duplex=False)
        self.process = _context.Process(target=change_for_ever, args=(location, master, name, tell))
        self.process.start()
        tell.close()

    def hear(self) -> list[str]:
        """The next thing that it did."""
        assert self.told.poll(60), "the worker does nothing"
        heard: list[str] = self.told.recv()
        return heard

    def kill(self) -> list[list[str]]:
        """What it acknowledged and nobody has heard."""
        self.process.kill()
        self.process.join(30)
        heard = []
        with contextlib.suppress(EOFError, OSError):  # the last message may be cut
            while True:
                heard.append(self.told.recv())
        self.told.close()
        return heard


def kill_in_loops(location: str, master: Path, *, rounds: int, workers: int) -> int:
    """Let workers write and kill them at random moments.

    Asserts after each round that the store is whole and holds all that was acknowledged.

    :returns: how much was acknowledged.
    """
    acknowledged: list[list[str]] = []
    for _ in range(rounds):
        running = [Worker(location, master, f"w{number}") for number in range(workers)]
        acknowledged += [worker.hear() for worker in running]
        time.sleep(random.uniform(0.02, 0.25))
        random.shuffle(running)
        for worker in running:
            acknowledged += worker.kill()
        assert_nothing_lost(location, master, acknowledged)
    return len(acknowledged)


def assert_nothing_lost(location: str, master: Path, acknowledged: list[list[str]]) -> None:
    with Store(location, MasterKeyPlace(master)) as store:
        store.check()
        keys = store.load().keys
        with store.audit_lines() as lines:
            heads = {line_hash(line) for line in lines}
    for what, *rest in acknowledged:
        if what == "key":
            assert (rest[0], int(rest[1])) in keys
        elif what == "record":
            assert rest[0] in heads
