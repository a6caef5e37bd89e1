"""Killed, out of space, not allowed to write: no half file under a final name, the source untouched, and a second run
works."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sealing_files import GROUP, KEY, opened, pattern

from sealserve.errors import InputError, MachineError
from sealserve.files import atomic_writer
from sealserve.sealing import crew as crews
from sealserve.sealing import encrypt_file, open_sealed_model, seal_model, unseal_model
from sealserve.sealing.convert import encrypt_tree
from sealserve.sealing.errors import ModelIncompleteError, SealingTargetError
from sealserve.sealing.leftovers import remove_leftovers
from sealserve.sealing.listing import INCOMPLETE_NAME
from sealserve.secret import Secret

MOUNT = "/m"
_SEAL = f"""
import sys
from pathlib import Path
from sealserve.sealing import seal_model
from sealserve.secret import Secret
print("ready", flush=True)
seal_model(Path(sys.argv[1]), Path(sys.argv[2]), Secret(bytes.fromhex("{KEY.hex()}")), mount="{MOUNT}", replace=True)
print("done", flush=True)
"""


@pytest.fixture
def large_model(tmp_path: Path) -> Path:
    root = tmp_path / "large"
    (root / "variables").mkdir(parents=True)
    for index in range(3):
        (root / "variables" / f"shard-{index}").write_bytes(pattern(3072 + 26 * GROUP, index))
    (root / "saved_model.pb").write_bytes(pattern(4000))
    return root


def snapshot(directory: Path) -> dict[str, tuple[int, int, int]]:
    """What can be seen of every file without reading it: it must stay the same."""
    found = {}
    for path in directory.rglob("*"):
        status = path.stat()
        found[str(path)] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def kill_while_running(program: str, *arguments: Path, delay: float) -> None:
    """Start a program, wait for its first line and then ``delay`` seconds, and kill it; its helpers die with it."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(delay)
        process.kill()
        process.wait()
    deadline = time.monotonic() + 10
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not alive(process.pid), "a helper outlived its parent"


def test_killed_at_random_moments_a_model_is_incomplete_or_whole(
    large_model: Path, tmp_path: Path, key: Secret
) -> None:
    before = snapshot(large_model)
    generator = random.Random(7)
    incomplete = 0
    for _ in range(6):
        kill_while_running(_SEAL, large_model, tmp_path / "sealed", delay=generator.uniform(0, 0.12))
        try:
            open_sealed_model(tmp_path / "sealed", key, mount=MOUNT).verify()
        except (ModelIncompleteError, InputError):
            incomplete += 1
        assert snapshot(large_model) == before
    assert incomplete, "the delays were too long to hit anything"
    model = seal_model(large_model, tmp_path / "sealed", key, mount=MOUNT, replace=True)
    model.verify()
    assert not list((tmp_path / "sealed").rglob(".*"))
    assert not (tmp_path / "sealed" / INCOMPLETE_NAME).exists()


_ENCRYPT = f"""
import sys
from sealserve.sealing.convert import encrypt_tree
from sealserve.secret import Secret
print("ready", flush=True)
encrypt_tree(sys.argv[1], sys.argv[2], Secret(bytes.fromhex("{KEY.hex()}")), say=lambda _: None)
"""


def test_killed_at_random_moments_a_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    plain = pattern(3072 + 40 * GROUP)
    (tmp_path / "plain").write_bytes(plain)
    target = tmp_path / "sealed"
    target.write_bytes(b"the old one")
    generator = random.Random(8)
    for _ in range(4):
        kill_while_running(_ENCRYPT, tmp_path / "plain", target, delay=generator.uniform(0, 0.06))
        content = target.read_bytes()
        assert content == b"the old one" or opened(content) == plain
    assert (tmp_path / "plain").read_bytes() == plain


_UNSEAL = f"""
import signal
import sys
from pathlib import Path
from sealserve.sealing import unseal_model
from sealserve.secret import Secret
def stop(done, total):
    print("ready", flush=True)
    signal.pause()
key = Secret(bytes.fromhex("{KEY.hex()}"))
unseal_model(Path(sys.argv[1]), Path(sys.argv[2]), key, mount="{MOUNT}", progress=stop)
"""


def test_what_a_killed_run_left_in_the_clear_is_removed_by_the_next(
    large_model: Path, tmp_path: Path, key: Secret
) -> None:
    seal_model(large_model, tmp_path / "sealed", key, mount=MOUNT)
    kill_while_running(_UNSEAL, tmp_path / "sealed", tmp_path / "clear", delay=0)
    assert len(list(tmp_path.glob(".clear.*.partial/*"))) > 0
    unseal_model(tmp_path / "sealed", tmp_path / "clear", key, mount=MOUNT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clear", "large", "sealed"]


def test_what_another_run_or_another_file_has_beside_the_target_stays(tmp_path: Path, key: Secret) -> None:
    (tmp_path / "plain").write_bytes(b"x")
    kept = [".other.0123456789ab.partial", ".out.partial", ".out.0123456789ab.partial.txt", ".out.0123456789AB.partial"]
    for name in [*kept, ".out.0123456789ab.partial"]:
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / ".out.aaaaaaaaaaaa.partial").symlink_to(tmp_path / "plain")
    with atomic_writer(tmp_path / "out") as running:
        running.write(b"running")
        encrypt_tree(str(tmp_path / "plain"), str(tmp_path / "out"), key, say=lambda _: None)
        assert opened((tmp_path / "out").read_bytes()) == b"x"
    assert (tmp_path / "out").read_bytes() == b"running"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*kept, "plain", "out", ".out.aaaaaaaaaaaa.partial"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_that_is_told_to_end_leaves_nothing(tmp_path: Path, key: Secret, number: signal.Signals) -> None:
    (tmp_path / "model").mkdir()
    with (tmp_path / "model" / "weights").open("wb") as file:
        file.truncate(2 << 30)
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "key").chmod(0o600)
    command = [sys.executable, "-m", "sealserve", "seal", tmp_path / "model", tmp_path / "sealed"]
    with subprocess.Popen(
        [*command, "--key", tmp_path / "key", "--mount", MOUNT], stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        while not list(tmp_path.glob("sealed/.weights.*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        assert process.stderr is not None
        assert process.stderr.read().strip() == b"interrupted"
        assert process.wait() == 130
    assert not (tmp_path / "sealed").exists()
    assert not alive(process.pid)


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writing beyond ``size`` bytes fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_no_target_and_a_second_run_works(
    large_model: Path, tmp_path: Path, key: Secret
) -> None:
    before = snapshot(large_model)
    with file_size_limit(3_000_000), pytest.raises(InputError, match="cannot write"):
        seal_model(large_model, tmp_path / "sealed", key, mount=MOUNT)
    assert not (tmp_path / "sealed").exists()
    assert snapshot(large_model) == before
    seal_model(large_model, tmp_path / "sealed", key, mount=MOUNT)
    with file_size_limit(3_000_000), pytest.raises(InputError, match="cannot write"):
        unseal_model(tmp_path / "sealed", tmp_path / "clear", key, mount=MOUNT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large", "sealed"]


def mount(*arguments: str | Path) -> int:
    """The exit code of mount(8)."""
    program = shutil.which("mount")
    return subprocess.run([program, *arguments], capture_output=True, check=False).returncode if program else 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", disk):
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield disk
    finally:
        subprocess.run([shutil.which("umount") or "umount", "-l", disk], check=True)


def test_a_full_disk_is_named_and_left_as_it_was(large_model: Path, small_disk: Path, key: Secret) -> None:
    with pytest.raises(MachineError, match="No space left"):
        seal_model(large_model, small_disk / "sealed", key, mount=MOUNT)
    with pytest.raises(MachineError, match="No space left"):
        encrypt_tree(str(large_model / "variables" / "shard-0"), str(small_disk / "out"), key, say=lambda _: None)
    assert list(small_disk.iterdir()) == []


def test_a_read_only_target_is_named(large_model: Path, small_disk: Path, key: Secret) -> None:
    assert mount("-o", "remount,ro", small_disk) == 0
    with pytest.raises(MachineError, match="Read-only"):
        seal_model(large_model, small_disk / "sealed", key, mount=MOUNT)
    with pytest.raises(MachineError, match="Read-only"):
        encrypt_tree(str(large_model / "saved_model.pb"), str(small_disk / "out"), key, say=lambda _: None)


def test_a_source_that_changes_meanwhile_is_refused(tmp_path: Path, key: Secret) -> None:
    path = tmp_path / "plain"
    path.write_bytes(pattern(3072 + 20 * GROUP))
    changed = False

    def grow(_done: int, _total: int) -> None:
        nonlocal changed
        if not changed:
            changed = True
            with path.open("ab") as file:
                file.write(b"more")

    with (
        path.open("rb") as source,
        (tmp_path / "sealed").open("w+b") as target,
        pytest.raises(InputError, match="changed"),
    ):
        encrypt_file(source, target, key, "/x", progress=grow)


def test_a_source_that_shrinks_meanwhile_is_refused(tmp_path: Path, key: Secret) -> None:
    path = tmp_path / "plain"
    path.write_bytes(pattern(3072 + 20 * GROUP))
    with (
        path.open("rb") as source,
        (tmp_path / "sealed").open("w+b") as target,
        pytest.raises(InputError, match="changed"),
    ):
        encrypt_file(source, target, key, "/x", progress=lambda _done, _total: os.truncate(path, 5000))


def test_two_runs_into_the_same_target_are_not_allowed(model_dir: Path, tmp_path: Path, key: Secret) -> None:
    refused: list[BaseException] = []

    def second(_done: int, _total: int) -> None:
        if not refused:
            with pytest.raises(SealingTargetError, match="another run") as refusal:
                seal_model(model_dir, tmp_path / "sealed", key, mount=MOUNT)
            refused.append(refusal.value)

    seal_model(model_dir, tmp_path / "sealed", key, mount=MOUNT, progress=second).verify()
    assert refused


def test_being_interrupted_from_the_keyboard_leaves_nothing(large_model: Path, tmp_path: Path, key: Secret) -> None:
    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seal_model(large_model, tmp_path / "sealed", key, mount=MOUNT, progress=interrupt)
    assert not (tmp_path / "sealed").exists()


# --- helpers ------------------------------------------------------------------------------------------------------


def test_every_number_of_a_board_is_taken_once() -> None:
    board = crews.Board(500)
    read, write = os.pipe()

    def work() -> None:
        while (number := board.take()) is not None:
            os.write(write, number.to_bytes(2, "big"))
            board.finish(number)

    with crews.crew(3, work):
        work()
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        taken = pipe.read()
    numbers = [int.from_bytes(taken[i : i + 2], "big") for i in range(0, len(taken), 2)]
    assert sorted(numbers) == list(range(500))
    assert board.done == 500
    board.close()


def test_what_a_helper_raises_is_raised_here() -> None:
    def fail() -> None:
        raise MachineError("no room", hint="make some")

    with pytest.raises(MachineError, match="no room") as caught, crews.crew(2, fail):
        pass
    assert caught.value.hint == "make some"


def test_a_helper_that_is_killed_is_noticed() -> None:
    with pytest.raises(MachineError, match="ended unexpectedly"), crews.crew(1, lambda: os.kill(os.getpid(), 9)):
        pass


def test_helpers_are_ended_when_the_caller_fails() -> None:
    started: list[int] = []
    real_fork = os.fork

    def fork() -> int:
        pid = real_fork()
        started.append(pid)
        return pid

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fork", fork)
        with pytest.raises(RuntimeError), crews.crew(2, signal.pause):
            raise RuntimeError
    assert len(started) == 2
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_process_with_threads_does_not_fork() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        assert not crews.may_fork()
    finally:
        release.set()
        thread.join()


def test_nothing_is_removed_where_others_may_rename(tmp_path: Path) -> None:
    (tmp_path / ".out.0123456789ab.partial").mkdir()
    tmp_path.chmod(0o777)
    remove_leftovers(tmp_path, ["out"])
    assert (tmp_path / ".out.0123456789ab.partial").is_dir()
    tmp_path.chmod(0o700)
    remove_leftovers(tmp_path, ["out"])
    assert not (tmp_path / ".out.0123456789ab.partial").exists()
