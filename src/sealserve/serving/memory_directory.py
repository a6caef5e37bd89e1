"""A directory whose files live in memory: engines that open models by path read plaintext that no disk ever held.

Every file is an anonymous memory file (memfd_create(2)), sealed against change, and the directory holds only symbolic
links to ``/proc/PID/fd/N``. When the process ends, however it ends, the memory is gone and the links lead nowhere.
Memory can still be swapped out: a machine that is to keep the promise has no swap, or an encrypted one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO, Self

from sealserve.errors import InputError, MachineError
from sealserve.files import explain_os_error

PREFIX = "sealserve-memory-"

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class MemoryDirectory:
    """Files in memory under a path of this process.

    :param parent: where to make the directory of links (mode 0700); the system's directory for temporary files if not
        given. :meth:`close` removes it. Engines that have loaded a model do not need it any more.
    :raises MachineError: the directory cannot be made, or this system has no anonymous memory files.
    """

    def __init__(self, parent: Path | None = None) -> None:
        if not hasattr(os, "memfd_create"):
            raise MachineError("this system has no memory files (memfd_create)", hint="Run it on Linux 3.17 or later.")
        self._descriptors: dict[str, int] = {}
        place = parent or Path(tempfile.gettempdir())
        try:
            self._path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        except OSError as error:
            raise explain_os_error(error, place, "make a directory in") from error

    @property
    def path(self) -> Path:
        """The directory of links."""
        return self._path

    @property
    def names(self) -> tuple[str, ...]:
        """The files, as they were added."""
        return tuple(self._descriptors)

    @contextlib.contextmanager
    def add(self, name: str) -> Iterator[BinaryIO]:
        """Open a new file for writing; it is sealed, and appears in the directory, when the block ends without error.

        :param name: relative, with ``/`` between its parts: ``variables/variables.index``.
        :raises InputError: the name leaves the directory or is taken. :raises MachineError: no memory is left.
        """
        link = self._place(name)
        descriptor = os.memfd_create(PREFIX + PurePosixPath(name).name[:100], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # Closing the Python file must leave the descriptor open: the link leads to it.
            with os.fdopen(descriptor, "w+b", closefd=False) as file:
                yield file
                file.flush()
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            link.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            link.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError):
                raise explain_os_error(error, name, "keep in memory") from error
            raise
        self._descriptors[name] = descriptor

    def close(self) -> None:
        """Remove the links and let go of the memory; what an engine has mapped stays until it lets go too."""
        shutil.rmtree(self._path, ignore_errors=True)
        while self._descriptors:
            _, descriptor = self._descriptors.popitem()
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _place(self, name: str) -> Path:
        parts = name.split("/")
        if "\0" in name or any(part in {"", ".", ".."} for part in parts):
            raise InputError(f"not a name inside a model's directory: {name!r}")
        link = self._path.joinpath(*parts)
        if os.path.lexists(link):
            raise InputError(f"the model has two files named {name}")
        return link
