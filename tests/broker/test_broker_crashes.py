"""A crash or a full disk at any moment loses no acknowledged change (SQLite)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker_parties import Place, ask, in_loop, running
from store_crashes import Worker, assert_nothing_lost, kill_in_loops

from sealserve.broker.administration import BrokerAdministration
from sealserve.broker.client import BrokersUnavailableError
from sealserve.broker.store import MasterKeyPlace, Store, StoreUnavailableError
from sealserve.errors import MachineError
from sealserve.ratls import TlsIdentity


def new_store(directory: Path, workers: int) -> tuple[str, Path]:
    location, master = str(directory / "a.db"), directory / "master.key"
    with Store.create(location, MasterKeyPlace(master), actor="test") as store:
        for number in range(workers):
            BrokerAdministration(store, actor="test").create_key(f"w{number}")
    return location, master


def test_a_killed_process_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    assert kill_in_loops(*new_store(tmp_path, 1), rounds=6, workers=1) > 20


def test_two_processes_write_one_store_and_are_killed(tmp_path: Path) -> None:
    assert kill_in_loops(*new_store(tmp_path, 2), rounds=4, workers=2) > 20


def test_threads_and_two_open_stores_make_one_chain(tmp_path: Path) -> None:
    location, master = new_store(tmp_path, 1)
    with Store(location, MasterKeyPlace(master)) as one, Store(location, MasterKeyPlace(master)) as other:

        def write(store: Store) -> None:
            for _ in range(10):
                store.append_audit([{"event": "decision"}])

        threads = [threading.Thread(target=write, args=(store,)) for store in (one, one, other, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        before = one.verify_audit()
        assert before.records == other.verify_audit().records
        one.check()
    assert before.records >= 40


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small file system")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run([mount.replace("mount", "umount"), "-l", disk], check=False)


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


def test_a_full_disk_refuses_and_loses_nothing(small_disk: Path) -> None:
    location, master = new_store(small_disk, 1)
    with Store(location, MasterKeyPlace(master)) as store:
        administration = BrokerAdministration(store, actor="test")
        versions = [administration.rotate_key("w0").version for _ in range(3)]
        with filled(small_disk), pytest.raises(StoreUnavailableError, match="No space left on device"):
            # What the file has room for is used up first.
            versions.extend(administration.rotate_key("w0").version for _ in range(2000))
        versions.append(administration.rotate_key("w0").version)
        store.check()
    assert_nothing_lost(location, master, [["key", "w0", str(version)] for version in versions])


def test_a_full_disk_is_not_told_as_writable(small_disk: Path) -> None:
    location, master = new_store(small_disk, 1)
    with Store(location, MasterKeyPlace(master)) as store:
        store.probe_audit(durable=True)
        with filled(small_disk):
            for durable in (False, True):
                with pytest.raises(StoreUnavailableError, match="No space left on device"):
                    store.probe_audit(durable=durable)
        store.probe_audit(durable=True)


def test_a_process_on_a_full_disk_is_killed_and_loses_nothing(small_disk: Path) -> None:
    location, master = new_store(small_disk, 1)
    worker = Worker(location, master, "w0")
    acknowledged = [worker.hear()]
    with filled(small_disk):
        while acknowledged[-1] != ["refused"]:
            acknowledged.append(worker.hear())
        acknowledged += worker.kill()
    assert_nothing_lost(location, master, acknowledged)


def test_a_broker_on_a_full_disk_releases_nothing(
    place: Place, identity: TlsIdentity, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("broker.db", "master.key"):
        shutil.copy(place.directory / name, small_disk / name)
        place.document["store" if name == "broker.db" else "master_key"] = f"{small_disk}/{name}"

    async def body() -> None:
        granted = 0
        async with running(place) as broker:
            await ask(place, broker, identity)
            with filled(small_disk), pytest.raises(BrokersUnavailableError, match="cannot decide now"):  # noqa: PT012
                while True:
                    await ask(place, broker, identity, timeout=2)
                    granted += 1
            failed = [record for record in caplog.records if record.msg == "audit-failed"]
            assert "No space left on device" in str(failed[0].fields["reason"])  # type: ignore[attr-defined]
            assert f"{small_disk}/broker.db" in str(failed[0].fields["reason"])  # type: ignore[attr-defined]
            await ask(place, broker, identity)
        assert [record["outcome"] for record in place.records] == ["granted"] * (granted + 2)

    in_loop(body)


def test_a_broker_does_not_start_on_a_full_disk_and_says_which(place: Place, small_disk: Path) -> None:
    for name in ("broker.db", "master.key"):
        shutil.copy(place.directory / name, small_disk / name)
        place.document["store" if name == "broker.db" else "master_key"] = f"{small_disk}/{name}"
    command = [sys.executable, "-m", "sealserve", "broker", "run", "-f", place.write(), "--json-logs"]
    with filled(small_disk):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == MachineError.exit_code
    assert f"the store {small_disk}/broker.db: No space left on device" in done.stderr
    assert "broker-listening" not in done.stderr
    assert place.settings().open_store().check().keys == 2
