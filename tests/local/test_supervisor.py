"""The supervisor with small fake programs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from process_fakes import fake

from sealserve.errors import InputError, MachineError, TrustError
from sealserve.local.child import ProcessSpec
from sealserve.local.events import Event, ProcessDied, ProcessReady, ProcessReported, ProcessStarted, ProcessStopped
from sealserve.local.proc import all_processes, facts_of
from sealserve.local.supervised import RestartPolicy
from sealserve.local.supervisor import Supervisor

QUICK = RestartPolicy(first_delay=0.01, longest_delay=0.05)


class Running:
    """A supervisor and everything it told."""

    def __init__(self, stages: Sequence[Sequence[ProcessSpec]], policy: RestartPolicy) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()
        self.supervisor = Supervisor(stages, listener=self._hear, policy=policy)

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    def of(self, kind: type, name: str | None = None) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind) and name in (None, event.name)]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def pid(self, name: str) -> int:
        child = next(process for process in self.supervisor.processes if process.spec.name == name).child
        assert child is not None
        return child.pid


@contextlib.asynccontextmanager
async def running(*stages: Sequence[ProcessSpec], policy: RestartPolicy = QUICK) -> AsyncIterator[Running]:
    it = Running(stages, policy)
    try:
        yield it
    finally:
        await it.supervisor.stop()


def in_group(group: int) -> list[int]:
    return [facts.pid for facts in all_processes() if facts.group == group and facts.state not in "ZX"]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - /proc announces nothing
            await asyncio.sleep(0.01)


def test_start_returns_when_every_process_said_it_is_ready(tmp_path: Path) -> None:
    async def main() -> None:
        slow = fake(tmp_path, "slow", "say(STATUS='loading'); say(STATUS='attesting', READY=1); wait()")
        async with running([fake(tmp_path, "quick"), slow]) as it:
            await it.supervisor.start()
            assert {event.name for event in it.of(ProcessReady)} == {"quick", "slow"}
            assert [event.text for event in it.of(ProcessReported, "slow")] == ["loading", "attesting"]
            assert all(process.phase == "ready" for process in it.supervisor.processes)
            assert all(event.seconds > 0 for event in it.of(ProcessReady))

    asyncio.run(main())


def test_a_stage_waits_for_the_one_before_and_stops_before_it(tmp_path: Path) -> None:
    async def main() -> None:
        stages = [[fake(tmp_path, "broker")], [fake(tmp_path, "r1"), fake(tmp_path, "r2")], [fake(tmp_path, "gateway")]]
        async with running(*stages) as it:
            await it.supervisor.start()
        order = [(type(event).__name__, event.name) for event in it.events]
        assert order.index(("ProcessReady", "broker")) < order.index(("ProcessStarted", "r1"))
        assert order.index(("ProcessReady", "r2")) < order.index(("ProcessStarted", "gateway"))
        stopped = [event.name for event in it.of(ProcessStopped)]
        assert stopped[0] == "gateway"
        assert stopped[-1] == "broker"
        assert not any(event.killed for event in it.of(ProcessStopped))

    asyncio.run(main())


def test_a_process_that_is_killed_is_started_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with running([fake(tmp_path, "r1"), fake(tmp_path, "r2")]) as it:
            await it.supervisor.start()
            other, first = it.pid("r2"), it.pid("r1")
            os.kill(first, signal.SIGKILL)
            await it.until(lambda: len(it.of(ProcessReady, "r1")) == 2)
            assert it.of(ProcessDied, "r1")[0].reason == "killed by SIGKILL"
            assert it.of(ProcessReady, "r1")[1].attempt == 2
            assert it.pid("r1") != first
            assert it.pid("r2") == other

    asyncio.run(main())


def test_delays_grow_until_the_longest_and_start_over_after_a_stable_time() -> None:
    policy = RestartPolicy(first_delay=0.2, longest_delay=10)
    assert [policy.delay(deaths) for deaths in (1, 2, 3, 6, 7, 1000)] == [0.2, 0.4, 0.8, 6.4, 10, 10]


@pytest.mark.parametrize(("stable_after", "same"), [(0.0, True), (1000.0, False)])
def test_a_stable_life_resets_the_delay(tmp_path: Path, stable_after: float, same: bool) -> None:
    async def main() -> None:
        policy = RestartPolicy(first_delay=0.01, longest_delay=1.0, stable_after=stable_after)
        body = "say(READY=1); time.sleep(0.3); sys.exit(1)"
        async with running([fake(tmp_path, "r1", body)], policy=policy) as it:
            await it.supervisor.start()
            await it.until(lambda: len(it.of(ProcessDied)) == 2)
            first, second = (event.restart_in for event in it.of(ProcessDied))
            assert (first == second) is same

    asyncio.run(main())


def test_a_refusal_at_start_is_passed_on_with_its_exit_code_and_not_tried_again(tmp_path: Path) -> None:
    async def main() -> None:
        body = """
log('{"level": "info", "event": "connected"}')
log('{"error": "the broker refused the key: measurement", "reason": "broker-refused", "hint": "See the policy."}')
sys.exit(4)
"""
        async with running([fake(tmp_path, "r1", body), fake(tmp_path, "r2", "wait()")]) as it:
            with pytest.raises(TrustError, match="r1 did not start: the broker refused the key: measurement") as caught:
                await it.supervisor.start()
            assert caught.value.hint == "See the policy."
            assert len(it.of(ProcessStarted, "r1")) == 1
            left = it.pid("r2")
        assert facts_of(left) is None

    asyncio.run(main())


def test_a_crash_at_start_is_tried_again_a_few_times(tmp_path: Path) -> None:
    async def main() -> None:
        body = "log('Traceback (most recent call last):'); log('ValueError: bad luck'); sys.exit(1)"
        async with running([fake(tmp_path, "r1", body)]) as it:
            with pytest.raises(MachineError, match="r1 did not start: ValueError: bad luck"):
                await it.supervisor.start()
            assert len(it.of(ProcessStarted)) == 3
            assert it.of(ProcessDied)[-1].restart_in is None

    asyncio.run(main())


def test_after_start_up_even_a_refusal_is_tried_again(tmp_path: Path) -> None:
    async def main() -> None:
        body = """
seen = os.path.exists('seen'); open('seen', 'a').write('x')
if seen and os.path.getsize('seen') < 4:
    log('error: no'); sys.exit(4)
say(READY=1); wait()
"""
        async with running([fake(tmp_path, "r1", body)]) as it:
            await it.supervisor.start()
            os.kill(it.pid("r1"), signal.SIGTERM)
            await it.until(lambda: len(it.of(ProcessReady)) == 2)
            assert [event.reason for event in it.of(ProcessDied)] == ["killed by SIGTERM", "no", "no"]

    asyncio.run(main())


def test_a_process_that_is_never_ready_is_killed_and_its_last_words_are_told(tmp_path: Path) -> None:
    async def main() -> None:
        slow = fake(tmp_path, "r1", "say(STATUS='waiting for the broker'); wait()", start_timeout=1.0)
        async with running([slow], policy=RestartPolicy(attempts_to_start=1)) as it:
            with pytest.raises(MachineError, match=r"not ready after 1 s \(waiting for the broker\)"):
                await it.supervisor.start()

    asyncio.run(main())


def test_a_program_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with running([fake(tmp_path, "r1", command=(str(tmp_path / "nothing"),))]) as it:
            with pytest.raises(MachineError, match=r"cannot run .*nothing: No such file"):
                await it.supervisor.start()

    asyncio.run(main())


def test_a_failing_preparation_prevents_the_start(tmp_path: Path) -> None:
    def refuse() -> None:
        raise InputError("the file is wrong", hint="Mend it.")

    async def main() -> None:
        async with running([fake(tmp_path, "r1", before_start=refuse)]) as it:
            with pytest.raises(InputError, match="r1 did not start: the file is wrong"):
                await it.supervisor.start()
            assert not it.of(ProcessStarted)

    asyncio.run(main())


def test_readiness_can_be_asked_for(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    async def main() -> None:
        spec = fake(tmp_path, "gateway", "open('mark', 'w').close(); wait()", is_ready=lambda _: mark.exists())
        async with running([spec]) as it:
            await it.supervisor.start()

    asyncio.run(main())


def test_one_that_ignores_the_stop_signal_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        body = "signal.signal(signal.SIGTERM, signal.SIG_IGN); say(READY=1); wait()"
        async with running([fake(tmp_path, "r1", body, stop_timeout=0.2)]) as it:
            await it.supervisor.start()
            pid = it.pid("r1")
        assert it.of(ProcessStopped)[0].killed
        assert facts_of(pid) is None

    asyncio.run(main())


def test_what_a_dead_process_left_running_goes_too(tmp_path: Path) -> None:
    async def main() -> None:
        body = (
            "subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600)']); say(READY=1); wait()"
        )
        async with running([fake(tmp_path, "r1", body)]) as it:
            await it.supervisor.start()
            pid = it.pid("r1")
            assert len(in_group(pid)) == 2
            os.kill(pid, signal.SIGKILL)
            await it.until(lambda: it.of(ProcessDied))
            await until(lambda: in_group(pid) == [])

    asyncio.run(main())


def test_only_the_process_itself_can_report_itself_ready(tmp_path: Path) -> None:
    async def main() -> None:
        body = "open('address', 'w').write(os.environ['NOTIFY_SOCKET']); wait()"
        async with running(
            [fake(tmp_path, "r1", body, start_timeout=1.0)], policy=RestartPolicy(attempts_to_start=1)
        ) as it:
            starting = asyncio.create_task(it.supervisor.start())
            address = tmp_path / "address"
            await until(lambda: address.exists() and address.read_text())
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
                other.sendto(b"READY=1", address.read_text().replace("@", "\0", 1))
            with pytest.raises(MachineError, match="not ready"):
                await starting

    asyncio.run(main())


def test_output_goes_to_the_log(tmp_path: Path) -> None:
    async def main() -> None:
        body = "log('to standard output'); print('to standard error', file=sys.stderr); say(READY=1); wait()"
        async with running([fake(tmp_path, "r1", body)]) as it:
            await it.supervisor.start()
        assert set((tmp_path / "r1.log").read_text().splitlines()) == {"to standard output", "to standard error"}

    asyncio.run(main())


def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with running([fake(tmp_path, "broker")], [fake(tmp_path, "r1", "wait()"), fake(tmp_path, "r2")]) as it:
            starting = asyncio.create_task(it.supervisor.start())
            await it.until(lambda: len(it.of(ProcessStarted)) == 3)
            pids = [event.pid for event in it.of(ProcessStarted)]
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
        assert not any(facts_of(pid) for pid in pids)

    asyncio.run(main())


def test_kill_ends_everything_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        body = "signal.signal(signal.SIGTERM, signal.SIG_IGN); say(READY=1); wait()"
        async with running([fake(tmp_path, "r1", body, stop_timeout=1000.0)]) as it:
            await it.supervisor.start()
            stopping = asyncio.create_task(it.supervisor.stop())
            await asyncio.sleep(0.05)
            it.supervisor.kill()
            await asyncio.wait_for(stopping, 10)

    asyncio.run(main())


_SUPERVISOR_PROGRAM = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from process_fakes import fake
from sealserve.local.supervisor import Supervisor
async def main():
    specs = [fake(Path({directory!r}), name) for name in "ab"]
    supervisor = Supervisor([specs], listener=lambda event: None)
    await supervisor.start()
    print(*(process.child.pid for process in supervisor.processes), flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def test_nothing_survives_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        program = _SUPERVISOR_PROGRAM.format(tests=str(Path(__file__).parent), directory=str(tmp_path))
        supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        assert supervisor.stdout is not None
        pids = [int(word) for word in (await supervisor.stdout.readline()).split()]
        assert len(pids) == 2
        supervisor.kill()
        await supervisor.wait()
        await until(lambda: not any(in_group(pid) for pid in pids))

    asyncio.run(main())
