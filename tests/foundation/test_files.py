"""Files appear whole or not at all, and key files are private."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from sealserve.errors import InputError, KeyFileError, MachineError
from sealserve.files import atomic_writer, explain_os_error, read_file, read_secret_file, write_atomically


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_writer(target) as file:
        file.write(b"half")
        assert not target.exists()
    assert target.read_bytes() == b"half"


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")

    def fail() -> None:
        with atomic_writer(target) as file:
            file.write(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_mode_is_exact_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        write_atomically(tmp_path / "public", b"x", mode=0o644)
    finally:
        os.umask(old)
    write_atomically(tmp_path / "private", b"x", mode=0o600)
    assert (tmp_path / "public").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_is_a_machine_error_that_says_what_to_do() -> None:
    error = explain_os_error(OSError(errno.ENOSPC, "No space left on device"), Path("x"), "write")
    assert isinstance(error, MachineError)
    assert "disk space" in str(error.hint)


def test_running_out_of_space_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys, pathlib\n"
        "from sealserve.files import write_atomically\n"
        "from sealserve.errors import SealserveError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_atomically(pathlib.Path(sys.argv[1]), bytes(5000))\n"
        "except SealserveError: raise SystemExit(7)\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], check=False)
    assert done.returncode == 7
    assert not list(tmp_path.iterdir())


def test_a_key_file_that_others_can_read_is_refused_unless_told(tmp_path: Path) -> None:
    key = tmp_path / "key"
    write_atomically(key, bytes(16), mode=0o640)
    with pytest.raises(KeyFileError, match="read by others"):
        read_secret_file(key, size=16)
    assert len(read_secret_file(key, size=16, insecure_allow_readable_by_others=True)) == 16


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_a_key_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    key = tmp_path / "key"
    write_atomically(key, bytes(size), mode=0o600)
    with pytest.raises(KeyFileError, match="exactly 16"):
        read_secret_file(key, size=16)


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError) as caught:
        read_secret_file(tmp_path / "none")
    assert "sealserve key generate" in str(caught.value.hint)


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(11))
    assert read_file(tmp_path / "big", limit=11) == bytes(11)
    with pytest.raises(InputError, match="larger"):
        read_file(tmp_path / "big", limit=10)
