"""Plaintext in memory and nowhere else."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sealserve.errors import InputError, MachineError
from sealserve.serving.memory_directory import MemoryDirectory

MARKER = b"the plaintext of a model"


def memory_files():
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(entry.readlink())
        except FileNotFoundError:  # the descriptor of this very listing
            continue
    return [link for link in links if "memfd:sealserve-memory" in str(link)]


def fill(directory, **files):
    for name, data in files.items():
        with directory.add(name) as file:
            file.write(data)


def test_the_directory_holds_links_only_and_they_read_as_the_files(tmp_path):
    with MemoryDirectory(tmp_path) as directory:
        fill(directory, **{"1/saved_model.pb": MARKER, "1/variables/variables.index": b""})
        assert (directory.path / "1" / "saved_model.pb").read_bytes() == MARKER
        assert (directory.path / "1" / "variables" / "variables.index").read_bytes() == b""
        assert directory.names == ("1/saved_model.pb", "1/variables/variables.index")
        kinds = {stat.S_IFMT(entry.lstat().st_mode) for entry in tmp_path.rglob("*")}
        assert kinds == {stat.S_IFDIR, stat.S_IFLNK}
        assert all(MARKER not in os.fsencode(entry.readlink()) for entry in tmp_path.rglob("*") if entry.is_symlink())
        assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700


def test_closing_removes_the_links_and_frees_the_memory(tmp_path):
    directory = MemoryDirectory(tmp_path)
    fill(directory, a=MARKER, b=MARKER)
    assert len(memory_files()) == 2
    directory.close()
    assert memory_files() == []
    assert list(tmp_path.iterdir()) == []
    directory.close()


def test_a_file_cannot_be_changed_once_it_is_there(tmp_path):
    with MemoryDirectory(tmp_path) as directory:
        fill(directory, a=MARKER)
        descriptor = os.open(directory.path / "a", os.O_RDWR)
        try:
            with pytest.raises(PermissionError):
                os.pwrite(descriptor, b"x", 0)
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)
        assert (directory.path / "a").read_bytes() == MARKER


def test_a_file_that_was_not_finished_does_not_appear(tmp_path):
    with MemoryDirectory(tmp_path) as directory:
        with pytest.raises(RuntimeError, match="wrong seal"), directory.add("a") as file:  # noqa: PT012
            file.write(MARKER)
            raise RuntimeError("wrong seal")
        assert list(directory.path.iterdir()) == []
        assert memory_files() == []
        fill(directory, a=MARKER)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../b", "a//b", "./a", "a/", "a\0b"])
def test_a_name_that_leaves_the_directory_is_refused(tmp_path, name):
    with MemoryDirectory(tmp_path) as directory, pytest.raises(InputError), directory.add(name):
        pass
    assert memory_files() == []


def test_a_name_is_given_once(tmp_path):
    with MemoryDirectory(tmp_path) as directory:
        fill(directory, a=MARKER)
        with pytest.raises(InputError, match="two files named a"):
            fill(directory, a=b"other")
        assert (directory.path / "a").read_bytes() == MARKER


def test_a_parent_that_is_missing_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        MemoryDirectory(tmp_path / "nowhere")


def test_no_memory_left_is_a_machine_error(tmp_path):
    with (
        MemoryDirectory(tmp_path) as directory,
        pytest.raises(MachineError, match="No space left"),
        directory.add("a"),
    ):
        raise OSError(28, "No space left on device")


def test_a_killed_process_leaves_links_that_lead_nowhere(tmp_path):
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from sealserve.serving.memory_directory import MemoryDirectory
        directory = MemoryDirectory(Path(sys.argv[1]))
        with directory.add("variables/data") as file:
            file.write(b"the plaintext of a model")
        assert (directory.path / "variables/data").read_bytes() == b"the plaintext of a model"
        os.kill(os.getpid(), signal.SIGKILL)
    """
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert died.returncode == -signal.SIGKILL
    files = [entry for entry in tmp_path.rglob("*") if not entry.is_dir()]
    assert [entry.name for entry in files] == ["data"]
    assert files[0].is_symlink()
    assert not files[0].exists()
