"""The load of the seed's ``resnet_client_grpc.py``: some connections, each of which asks again and again.

Flags, lines and their meaning are those of cczoo/tensorflow-serving-cluster in intel/confidential-computing-zoo.
What is different: the input's name, type and shape are read from the model's metadata, and the word before
``channel`` says whether the server gave evidence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sealserve.client.aio.client import AsyncCaller
from sealserve.client.messages import Prediction
from sealserve.errors import SealserveError

WARM_UP = 5
DEFAULT_MODEL = "resnet50-v15-fp32"
"""What the seed's client asks for."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Tally:
    """What was measured so far; ``first`` is the first answer."""

    batch: int
    connections: int
    started: float = field(default_factory=time.perf_counter)
    requests: int = 0
    seconds: float = 0.0
    first: Prediction | None = None

    def summary(self) -> str:
        """The seed's last line: from the start until now."""
        elapsed = time.perf_counter() - self.started
        latency = 1000 * self.seconds / max(self.requests, 1)
        rate = self.requests * self.batch / elapsed
        return (
            f"summary: cnum {self.connections}, batch {self.batch}, e2e time(s) {elapsed:.3f}, "
            f"average latency(ms) {latency:.2f}, tps: {rate:.2f}"
        )


async def ask(
    client: AsyncCaller,
    inputs: Mapping[str, Array],
    tally: Tally,
    *,
    model: str,
    loop: int,
    timeout: float,  # noqa: ASYNC109 - of each call
    say: Callable[[str], None],
) -> None:
    """Ask ``loop`` times on each connection, without end if it is 0.

    :param inputs: of each request, with ``tally.batch`` in its first dimension.
    :param say: gets a line for every request.
    """

    async def connection(task: int) -> None:
        index = 0
        while index < loop or not loop:
            begun = time.perf_counter()
            answer = await client.predict(inputs, model=model, timeout=timeout)
            latency = time.perf_counter() - begun
            tally.requests += 1
            tally.seconds += latency
            tally.first = tally.first or answer
            counted = f" loop_idx {index}," if loop else ""
            say(
                f"query: {'attested' if answer.checked else 'unattested'} channel, task {task}, batch {tally.batch},"
                f"{counted} latency(ms) {1000 * latency:.1f}, tps: {tally.batch / latency:.1f}"
            )
            index += 1

    try:
        async with asyncio.TaskGroup() as group:
            for task in range(tally.connections):
                group.create_task(connection(task))
    except* SealserveError as several:
        raise several.exceptions[0] from None  # one refusal says it for all
