"""Where engines read models from: open files by name, in memory or on a disk.

Plaintext of a sealed model is in memory files only (memfd_create(2)), sealed against change: no name leads to them from
outside the process, so that nobody can put another file in their place between verifying and loading. When the process
ends, however it ends, the memory is gone. Memory can still be swapped out: a machine that is to keep the promise has no
swap, or an encrypted one. Gramine has no memfd_create(2): there they are in the enclave's own memory
(:mod:`~sealserve.serving.enclave_files`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from sealserve.errors import InputError, MachineError
from sealserve.files import explain_os_error
from sealserve.serving.enclave_files import EnclaveFile

ModelFiles = Mapping[str, BinaryIO]
"""The files of one model version, open for reading, by names such as ``variables/variables.index``."""

PREFIX = "sealserve-memory-"

_SHOWN_BYTES = 200  # memfd_create(2) takes 249
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@contextlib.contextmanager
def memory_file(name: str) -> Iterator[BinaryIO]:
    """A file in memory that is open for writing, until :func:`seal`; it is gone when the block ends.

    :param name: for people who look at ``/proc``.
    :raises MachineError: this system has no memory files, or no memory is left.
    """
    with _new_file(name) as file:
        yield file


def seal(file: BinaryIO) -> None:
    """Make a memory file unchangeable for everybody, this process too."""
    file.flush()
    # In an enclave there are no seals, and nobody else.
    if not isinstance(file, EnclaveFile):
        fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, _SEALS)


def path_of(file: BinaryIO) -> str:
    """A path by which this process can open an open file once more, for libraries that take paths only."""
    return f"/proc/self/fd/{file.fileno()}"


@contextlib.contextmanager
def kept(file: BinaryIO) -> Iterator[str]:
    """A path by which this process can open the file until the block ends, though ``file`` is closed before.

    :raises OSError: no more files can be open.
    """
    if isinstance(file, EnclaveFile):
        with file.kept() as path:
            yield path
        return
    descriptor = os.dup(file.fileno())
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


class MemoryFiles(dict[str, BinaryIO]):
    """Model files in memory; close them with ``with``. Engines that have loaded a model do not need them any more."""

    @contextlib.contextmanager
    def add(self, name: str) -> Iterator[BinaryIO]:
        """Open a new file for writing; it is sealed, and appears here, when the block ends without error.

        :param name: relative, with ``/`` between its parts: ``variables/variables.index``.
        :raises InputError: the name leaves the model's directory or is taken.
        :raises MachineError: this system has no memory files, or no memory is left.
        """
        if "\0" in name or any(part in {"", ".", ".."} for part in name.split("/")):
            raise InputError(f"not a name inside a model's directory: {name!r}")
        if name in self:
            raise InputError(f"the model has two files named {name}")
        file = _new_file(name)
        try:
            yield file
            seal(file)
            file.seek(0)
        except BaseException as error:
            with contextlib.suppress(OSError):
                file.close()
            if isinstance(error, OSError):
                raise explain_os_error(error, name, "keep in memory") from error
            raise
        self[name] = file

    def let_go(self, names: tuple[str, ...]) -> None:
        """Let go of the files whose names begin so: an engine has read them, and needs their memory."""
        for name in [name for name in self if name.startswith(names)]:
            self.pop(name).close()

    def close(self) -> None:
        """Let go of the memory."""
        while self:
            self.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def directory_files(directory: Path) -> Iterator[ModelFiles]:
    """The files of a model that lies on a disk in the clear.

    :param directory: the version's, with ``saved_model.pb``.
    :raises InputError: a file cannot be read.
    """
    with contextlib.ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for path in sorted(directory.rglob("*")):
            if not path.is_file():
                continue
            try:
                files[path.relative_to(directory).as_posix()] = stack.enter_context(path.open("rb"))
            except OSError as error:
                raise explain_os_error(error, path, "read") from error
        yield files


def _new_file(name: str) -> BinaryIO:
    if not hasattr(os, "memfd_create"):
        raise MachineError("this system has no memory files (memfd_create)", hint="Run it on Linux 3.17 or later.")
    shown = name.rpartition("/")[2].encode(errors="replace")[:_SHOWN_BYTES].decode(errors="ignore")
    try:
        descriptor = os.memfd_create(PREFIX + shown, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        return os.fdopen(descriptor, "w+b")
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise explain_os_error(error, name, "keep in memory") from error
    try:
        return EnclaveFile(PREFIX + shown)
    except OSError as error:
        raise explain_os_error(error, name, "keep in memory") from error
