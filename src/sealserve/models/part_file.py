"""A download that is not complete: ``NAME.part``, and beside it what is needed to go on where it stopped.

``NAME.part.json`` has the address (its digest: it may hold a secret) and the server's validator (RFC 9110, section
8.8): a strong entity tag, or the date of the last change. With it the server says whether the rest still belongs to the
beginning; without it the download begins anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from sealserve.errors import InputError, SealserveError
from sealserve.files import PUBLIC, explain_os_error, read_file, write_atomically

_CHUNK = 1 << 20
_MAX_STATE = 64 << 10
_VALIDATOR = re.compile(r"[\x20-\x7e\x80-\xff]{1,1000}")  # what can stand in a header


class PartFile:
    """The beginning of a file; nobody else may write it until it is closed. Use it with ``with``.

    :param path: ``NAME.part``.
    :ivar size: bytes that are there.
    :raises InputError: it cannot be written, or another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = path.with_name(path.name + ".json")
        try:
            descriptor = _open(path)
        except OSError as error:
            raise explain_os_error(error, path, "write") from error
        self._file = os.fdopen(descriptor, "r+b")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise InputError(f"another download writes {path}", hint="Wait for it, or choose another place.") from None
        except OSError:
            pass  # this file system has no locks
        self.size = os.fstat(descriptor).st_size
        self._digest = hashlib.sha256()
        self._hashed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def validator(self, url: str) -> str | None:
        """What the server said of the beginning; None if there is none that can be gone on with."""
        with contextlib.suppress(SealserveError, ValueError, RecursionError):
            state = json.loads(read_file(self._state, limit=_MAX_STATE))
            if isinstance(state, dict) and state.get("address") == _digest(url) and self.size:
                validator = state.get("validator")
                return validator if isinstance(validator, str) and _VALIDATOR.fullmatch(validator) else None
        return None

    def begin(self, url: str, validator: str | None) -> None:
        """Throw away what is there, and note what the server says of what comes."""
        self._write(0)
        if validator is None:
            with self._explained("remove"):
                self._state.unlink(missing_ok=True)
        else:
            write_atomically(self._state, json.dumps({"address": _digest(url), "validator": validator}))

    def append(self, data: bytes) -> None:
        """Add to the end. :raises MachineError: the disk is full."""
        self._write(self.size, data)

    def sha256(self) -> str:
        """Of what is there, in hexadecimal digits."""
        with self._explained("read"):
            self._file.flush()
            self._file.seek(self._hashed)
            while piece := self._file.read(_CHUNK):
                self._digest.update(piece)
                self._hashed += len(piece)
        return self._digest.hexdigest()

    def head(self, size: int) -> bytes:
        """The first bytes."""
        with self._explained("read"):
            self._file.flush()
            self._file.seek(0)
            return self._file.read(size)

    def remove(self) -> None:
        """It is of no use any more."""
        with self._explained("remove"):
            for path in (self.path, self._state):
                path.unlink(missing_ok=True)

    def _write(self, at: int, data: bytes = b"") -> None:
        with self._explained("write"):
            self._file.seek(at)
            if not data:
                self._file.truncate()
                self._digest, self._hashed = hashlib.sha256(), 0
            elif self._file.write(data) and self._hashed == at:
                self._digest.update(data)
                self._hashed += len(data)
            self.size = at + len(data)

    @contextlib.contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise explain_os_error(error, self.path, action) from error


def _open(path: Path) -> int:
    """A new file, or one of this user's that nobody has under another name: its owner could change the model later."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    with contextlib.suppress(FileExistsError):
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, PUBLIC)
    descriptor = os.open(path, flags)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
        os.close(descriptor)
        raise InputError(
            f"{path} is there already, and is not a file of yours alone",
            hint="Remove it, or choose a directory that only you can write.",
        )
    return descriptor


def validator_of(headers: Mapping[str, str]) -> str | None:
    """What can stand in ``If-Range``: a strong entity tag, or else a date (RFC 9110, section 13.1.5)."""
    tag = headers.get("ETag", "")
    found = tag if tag.startswith('"') else headers.get("Last-Modified", "")
    return found if _VALIDATOR.fullmatch(found) else None


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()
