"""A broker of several processes is one broker: for enclaves, for its supervisor, and in what it counts."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from admin_parties import add_admin, make_token, trusting
from broker_parties import DIGEST, WRAP_KEY, Place
from test_broker_process import COMMAND, Process, broker_process

from sealserve.broker.audit import verify_chain
from sealserve.broker.settings import BrokerSettings
from sealserve.broker.statistics import Statistics
from sealserve.broker.tally import Counts, Tally, total
from sealserve.broker.workers import _Parent
from sealserve.ratls import TlsIdentity


@pytest.fixture
def two(place: Place) -> Place:
    place.document["workers"] = 2
    return place


def workers_of(process: Process) -> list[int]:
    return [
        int(child) for child in Path(f"/proc/{process.popen.pid}/task/{process.popen.pid}/children").read_text().split()
    ]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(process: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True


def verified(place: Place) -> int:
    """How many records the audit chain has; it is whole."""
    with place.store() as store, store.audit_lines() as lines:
        return verify_chain(lines, public_key=None).records


def deciders(log: list[dict[str, object]]) -> int:
    return sum(entry["event"] == "broker-listening" for entry in log)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_serve_and_end_together(two: Place, identity: TlsIdentity, tmp_path: Path, number: int) -> None:
    with broker_process(two, tmp_path) as process:
        workers = workers_of(process)
        assert len(workers) == 2
        for _ in range(10):
            assert bytes(process.fetch(identity).keys["wrap"].value.reveal()) == WRAP_KEY
        code, log = process.end(number)
    assert code == 0
    assert deciders(log) == 2
    assert sum(entry["event"] == "broker-stopped" for entry in log) == 2
    assert all(gone(worker) for worker in workers)
    assert verified(two) >= 10


def test_a_worker_that_is_killed_is_replaced_and_nobody_goes_without(
    two: Place, identity: TlsIdentity, tmp_path: Path
) -> None:
    with broker_process(two, tmp_path) as process:
        for victim in workers_of(process):
            os.kill(victim, signal.SIGKILL)
            process.fetch(identity)  # from the other one
            until(lambda victim=victim: victim not in (now := workers_of(process)) and len(now) == 2)  # type: ignore[misc]
            process.fetch(identity)
        code, log = process.end()
    assert code == 0
    assert sum(entry["event"] == "worker-ended" for entry in log) == 2
    assert verified(two) >= 4


def test_workers_do_not_outlive_the_process_that_started_them(two: Place, tmp_path: Path) -> None:
    with broker_process(two, tmp_path) as process:
        workers = workers_of(process)
        process.popen.kill()
        process.popen.communicate()
        until(lambda: all(gone(worker) for worker in workers))


def test_what_workers_count_is_told_together_and_never_goes_back(
    two: Place, identity: TlsIdentity, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    add_admin(two, listen=f"127.0.0.1:{port}")
    token = make_token(two)

    def granted() -> int:
        request = urllib.request.Request(
            f"https://localhost:{port}/metrics", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, context=trusting(two), timeout=10) as answer:  # noqa: S310
                found = re.search(rb'decisions_total\{outcome="granted"[^}]*\} (\d+)', answer.read())
        except OSError:
            return -1
        return int(found[1]) if found else 0

    with broker_process(two, tmp_path) as process:
        for _ in range(20):
            process.fetch(identity)
        until(lambda: granted() == 20)
        time.sleep(0.6)  # each has told what it counted
        for victim in workers_of(process):
            os.kill(victim, signal.SIGKILL)
            until(lambda victim=victim: victim not in (now := workers_of(process)) and len(now) == 2)  # type: ignore[misc]
        until(lambda: granted() == 20)
        process.end()


def test_a_broker_whose_workers_cannot_start_ends_with_their_error(two: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        add_admin(two, listen=f"127.0.0.1:{taken.getsockname()[1]}")
        ended = subprocess.run(
            [*COMMAND, "run", "-f", two.write()], check=False, capture_output=True, text=True, timeout=60
        )
    assert ended.returncode == 6, ended.stderr
    assert "another process does" in ended.stderr


def test_a_worker_that_ends_again_and_again_is_started_at_longer_and_longer_intervals(
    two: Place, identity: TlsIdentity, tmp_path: Path
) -> None:
    with broker_process(two, tmp_path) as process:
        victim = workers_of(process)[0]
        away = two.directory / "away"
        (two.directory / "broker.pem").rename(away)
        os.kill(victim, signal.SIGKILL)
        process.fetch(identity)  # the other one serves on
        time.sleep(4.5)  # a second, two seconds, and then four
        away.rename(two.directory / "broker.pem")
        until(lambda: len(workers_of(process)) == 2)
        code, log = process.end()
    assert code == 0
    pauses = [entry["started_anew_seconds"] for entry in log if entry.get("event") == "worker-ended"]
    assert pauses == [1.0, 2.0, 4.0]


def test_a_worker_that_the_system_refuses_is_tried_again_and_signals_still_come(
    two: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = _Parent(BrokerSettings.load(two.write()), [])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    monkeypatch.setattr(os, "fork", lambda: (_ for _ in ()).throw(BlockingIOError(11, "no more processes")))
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    parent._start(0)
    assert list(parent._due) == [0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_workers_follow_a_rotated_key_and_a_new_master_key(two: Place, identity: TlsIdentity, tmp_path: Path) -> None:
    def told_by_all(process: Process) -> set[tuple[int, bytes]]:
        """What several fetches got: more than enough of them to have asked both workers."""
        grants = [process.fetch(identity).keys["wrap"] for _ in range(12)]
        return {(key.version, bytes(key.value.reveal())) for key in grants}

    with broker_process(two, tmp_path) as process:
        with two.administration() as administration:
            administration.rotate_key("wrap")
            administration.switch_grant("digits", digest=bytes.fromhex(DIGEST), key_version=4)
        until(lambda: {version for version, _ in told_by_all(process)} == {4})
        ((_, value),) = told_by_all(process)
        assert value != WRAP_KEY
        with two.store() as store:
            store.rewrap("test")
        time.sleep(1.5)  # each has seen it
        with two.store() as store:
            store.finish_rewrap()
        assert told_by_all(process) == {(4, value)}
        code, _ = process.end()
    assert code == 0
    assert verified(two) > 24


def test_a_reader_never_sees_half_of_what_a_worker_tells() -> None:
    tally = Tally(1)
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            told = Counts(connections=number)
            told.handshakes.update({f"kind-{index}": number for index in range(number % 200)})
            tally.write(0, told)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2000):
            counts = tally.read(0)
            assert set(counts.handshakes.values()) <= {counts.connections}
            assert len(counts.handshakes) == counts.connections % 200
    finally:
        done.set()
        writer.join()


def test_counts_survive_the_way_through_shared_memory() -> None:
    tally = Tally(3)
    assert tally.read(1).statistics.decisions.total() == 0
    statistics = Statistics()
    statistics.decided(2, "granted", "", 0.004)
    statistics.decided(2, "refused", "tcb-status", 40.0)
    statistics.evidence["sgx", "UpToDate"] += 1
    statistics.recorded()
    statistics.recorded("disk-full")
    for connections in (7, 9):  # into both halves
        told = Counts(statistics, connections)
        told.handshakes["completed"] = 4
        tally.write(1, told)
        assert tally.read(1) == told
    whole = total([tally.read(0), tally.read(1), told])
    assert whole.statistics.decisions == {(2, "granted", ""): 2, (2, "refused", "tcb-status"): 2}
    assert whole.statistics.durations == [2 * count for count in statistics.durations]
    assert (whole.connections, whole.handshakes["completed"]) == (18, 8)
    assert whole.statistics.audit_failure == "disk-full"
    assert whole.statistics.started == statistics.started


def test_counts_that_do_not_fit_leave_those_before() -> None:
    tally = Tally(1)
    tally.write(0, Counts(connections=3))
    large = Statistics()
    large.decisions.update({(2, "refused", f"reason-{number:05}"): 1 for number in range(5000)})
    with pytest.raises(ValueError, match="too large"):
        tally.write(0, Counts(large))
    assert tally.read(0).connections == 3
