"""Memory files where there is no memfd_create(2); under Gramine itself they are in tests/deploy/images."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path

import pytest

from sealserve.errors import InputError, MachineError
from sealserve.serving import enclave_files
from sealserve.serving.model_files import PREFIX, MemoryFiles, kept, memory_file, path_of, seal

MARKER = b"the plaintext of a model"


def no_memfd(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory that is taken for one in an enclave's memory."""
    monkeypatch.setattr(os, "memfd_create", no_memfd)
    monkeypatch.setattr(enclave_files, "PLACE", tmp_path)
    monkeypatch.setattr(enclave_files, "_in_enclave", lambda place: place == tmp_path)
    return tmp_path


def test_a_directory_of_the_host_never_gets_plaintext(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "memfd_create", no_memfd)
    for directory in (tmp_path, Path("/dev/shm"), Path("/tmp"), tmp_path / "missing"):
        monkeypatch.setattr(enclave_files, "PLACE", directory)
        with MemoryFiles() as files, pytest.raises(MachineError, match="not in an enclave's memory"), files.add("a"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_another_failure_of_memory_files_leads_to_no_directory(place, monkeypatch):
    def too_many(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", too_many)
    with MemoryFiles() as files, pytest.raises(InputError, match="Too many open files"), files.add("a"):
        pass
    assert list(place.iterdir()) == []


def test_files_are_read_as_they_were_written(place):
    with MemoryFiles() as files:
        for name in ("saved_model.pb", "variables/variables.index"):
            with files.add(name) as file:
                file.write(MARKER)
        assert files["saved_model.pb"].read() == MARKER
        assert os.pread(files["saved_model.pb"].fileno(), 9, 4) == MARKER[4:13]
        assert Path(path_of(files["variables/variables.index"])).read_bytes() == MARKER
        assert all(path.name.startswith(PREFIX) for path in place.iterdir())


def test_a_library_reads_one_by_its_path(place):
    with memory_file("tls") as file:
        file.write(MARKER)
        seal(file)
        assert Path(path_of(file)).read_bytes() == MARKER
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("letter", ["a", "é", "語", "\udc80"])
def test_a_name_may_be_as_long_as_a_file_system_lets_it(place, letter):
    with MemoryFiles() as files:
        with files.add("assets/" + letter * 255) as file:
            file.write(MARKER)
        assert len(list(place.iterdir())) == 1


def test_closing_frees_the_memory(place):
    files = MemoryFiles()
    with files.add("variables/a") as file:
        file.write(MARKER)
    with files.add("b") as file:
        file.write(MARKER)
    files.let_go(("variables/",))
    assert len(list(place.iterdir())) == 1
    files.close()
    files.close()
    assert list(place.iterdir()) == []


def test_a_file_that_was_not_finished_does_not_stay(place):
    with MemoryFiles() as files:
        with pytest.raises(RuntimeError, match="wrong seal"), files.add("a") as file:  # noqa: PT012
            file.write(MARKER)
            raise RuntimeError("wrong seal")
        assert not files
        assert list(place.iterdir()) == []


def test_a_file_that_was_forgotten_does_not_stay(place):
    file = enclave_files.EnclaveFile("forgotten")
    assert len(list(place.iterdir())) == 1
    del file
    gc.collect()
    assert list(place.iterdir()) == []


def test_a_file_that_is_kept_outlives_its_model(place):
    with MemoryFiles() as files:
        with files.add("assets/words") as file:
            file.write(MARKER)
        first, second = kept(files["assets/words"]), kept(files["assets/words"])
        path = Path(first.__enter__())
        assert second.__enter__() == str(path)
    assert path.read_bytes() == MARKER
    first.__exit__(None, None, None)
    assert path.read_bytes() == MARKER
    second.__exit__(None, None, None)
    assert list(place.iterdir()) == []
