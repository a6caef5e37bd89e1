"""Plaintext in memory and nowhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sealserve.errors import InputError, MachineError
from sealserve.serving.model_files import PREFIX, MemoryFiles, directory_files, path_of

MARKER = b"the plaintext of a model"


def open_memory_files():
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except FileNotFoundError:  # the descriptor of this very listing
            continue
    return [link for link in links if f"memfd:{PREFIX}" in link]


@pytest.fixture
def memory_files():
    """Those that were opened in the test: models of other tests may still have theirs."""
    before = Counter(open_memory_files())
    return lambda: list((Counter(open_memory_files()) - before).elements())


def fill(files, **contents):
    for name, data in contents.items():
        with files.add(name) as file:
            file.write(data)


def test_files_are_read_as_they_were_written():
    with MemoryFiles() as files:
        fill(files, **{"saved_model.pb": MARKER, "variables/variables.index": b""})
        assert files["saved_model.pb"].read() == MARKER
        assert files["variables/variables.index"].read() == b""
        assert Path(path_of(files["saved_model.pb"])).read_bytes() == MARKER


@pytest.mark.parametrize("letter", ["a", "é", "語", "\U0001f600", "\udc80"])
def test_a_name_may_be_as_long_as_a_file_system_lets_it(letter):
    name = "assets/" + letter * 255
    with MemoryFiles() as files:
        fill(files, **{name: MARKER})
        assert files[name].read() == MARKER


def test_no_name_in_a_file_system_leads_to_them():
    with MemoryFiles() as files:
        fill(files, a=MARKER)
        status = os.fstat(files["a"].fileno())
        assert status.st_nlink == 0


def test_closing_frees_the_memory(memory_files):
    files = MemoryFiles()
    fill(files, a=MARKER, b=MARKER)
    assert len(memory_files()) == 2
    files.close()
    assert memory_files() == []
    files.close()


def test_a_file_cannot_be_changed_once_it_is_there():
    with MemoryFiles() as files:
        fill(files, a=MARKER)
        again = os.open(path_of(files["a"]), os.O_RDWR)
        try:
            for descriptor in (again, files["a"].fileno()):
                with pytest.raises(PermissionError):
                    os.pwrite(descriptor, b"x", 0)
                with pytest.raises(PermissionError):
                    os.ftruncate(descriptor, 0)
        finally:
            os.close(again)
        assert files["a"].read() == MARKER


def test_a_file_that_was_not_finished_does_not_appear(memory_files):
    with MemoryFiles() as files:
        with pytest.raises(RuntimeError, match="wrong seal"), files.add("a") as file:  # noqa: PT012
            file.write(MARKER)
            raise RuntimeError("wrong seal")
        assert not files
        assert memory_files() == []
        fill(files, a=MARKER)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../b", "a//b", "./a", "a/", "a\0b"])
def test_a_name_that_leaves_the_model_is_refused(name, memory_files):
    with MemoryFiles() as files, pytest.raises(InputError), files.add(name):
        pass
    assert memory_files() == []


def test_a_name_is_given_once():
    with MemoryFiles() as files:
        fill(files, a=MARKER)
        with pytest.raises(InputError, match="two files named a"):
            fill(files, a=b"other")
        assert files["a"].read() == MARKER


def test_no_memory_left_is_a_machine_error():
    with MemoryFiles() as files, pytest.raises(MachineError, match="No space left"), files.add("a"):
        raise OSError(28, "No space left on device")


def test_a_directory_gives_its_files_open(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.index").write_bytes(MARKER)
    with directory_files(tmp_path) as files:
        assert list(files) == ["variables/variables.index"]
        assert files["variables/variables.index"].read() == MARKER
    assert files["variables/variables.index"].closed


def test_a_killed_process_leaves_nothing(tmp_path):
    code = """if True:
        import os, signal
        from sealserve.serving.model_files import MemoryFiles
        files = MemoryFiles()
        with files.add("variables/data") as file:
            file.write(b"the plaintext of a model")
        assert files["variables/data"].read() == b"the plaintext of a model"
        os.kill(os.getpid(), signal.SIGKILL)
    """
    died = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert died.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []
