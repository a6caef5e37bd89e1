"""The audit log: one JSON object a line, in a file that only grows, each line bound to the one before.

``previous`` is the SHA-256 of the previous line (without its newline), 64 zeros in the first; ``sequence`` counts
from 1. So an edited, removed, inserted or moved line shows. Lines missing at the *end* do not show from the file
alone: whoever keeps the latest hash elsewhere can tell (:func:`verify_audit` returns it, and the broker logs it with
every decision).

:meth:`AuditLog.append` returns when the record is on disk. A record that could not be written whole is taken back.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from sealserve.errors import ConfigurationError, MachineError, TrustError
from sealserve.files import PRIVATE, explain_os_error, sync_directory

FIRST = "0" * 64
"""What the first line's ``previous`` is."""

_LONGEST_LINE = 1 << 20


class AuditTamperedError(TrustError):
    """The audit log is not what was written: a line was edited, removed, inserted or moved, or the end is cut."""


class AuditUnavailableError(MachineError):
    """A record cannot be written; what it would record must not happen."""


class AuditInUseError(MachineError):
    """Another process writes this audit log."""


@dataclass(frozen=True)
class AuditSummary:
    """What verification found.

    :param records: how many. :param head: SHA-256 of the last line, in hex (:data:`FIRST` if there is none).
    :param torn: bytes after the last whole line, which a crash during a write leaves.
    """

    records: int
    head: str
    torn: bytes = b""


class AuditLog:
    """The log that one broker writes. Safe for several threads.

    :param path: made with mode 0600 if it does not exist.
    :raises AuditTamperedError: the file's chain is broken. :raises AuditInUseError: another process has it open.
    :raises ConfigurationError: it is no regular file. :raises SealserveError: it cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._unusable: str | None = None
        self._records, self._head, self._size = 0, FIRST, 0
        # Without O_NONBLOCK, opening a pipe would wait for its other end.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._descriptor = os.open(path, flags, PRIVATE)
        except OSError as error:
            raise explain_os_error(error, path, "open the audit log") from error
        try:
            self._start()
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def head(self) -> str:
        """SHA-256 of the last line, in hex."""
        return self._head

    @property
    def records(self) -> int:
        """How many records there are."""
        return self._records

    def append(self, record: Mapping[str, Any]) -> str:
        """Write a record to disk.

        :param record: JSON-ready; ``sequence``, ``previous`` and ``time`` are added.
        :returns: the new head. :raises AuditUnavailableError: it is not on disk, and not in the file either.
        """
        with self._lock:
            line = json.dumps(
                {
                    "sequence": self._records + 1,
                    "previous": self._head,
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    **record,
                },
                separators=(",", ":"),
            ).encode()
            self._write(line + b"\n")
            self._size += len(line) + 1
            self._records += 1
            self._head = hashlib.sha256(line).hexdigest()
            return self._head

    def close(self) -> None:
        """Close the file; what was appended is on disk already."""
        with self._lock:
            self._unusable = "it is closed"
            with contextlib.suppress(OSError):
                os.close(self._descriptor)

    def _start(self) -> None:
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise ConfigurationError(f"the audit log {self._path} is no regular file", hint="Name a file.")
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AuditInUseError(
                f"another process writes the audit log {self._path}", hint="Give each key broker a file of its own."
            ) from error
        summary = verify_audit(self._path)
        self._records, self._head = summary.records, summary.head
        self._size = os.fstat(self._descriptor).st_size - len(summary.torn)
        sync_directory(self._path.parent)
        if summary.torn:
            # A crash cut the last write short. Nothing was released for it; say so and go on.
            os.ftruncate(self._descriptor, self._size)
            digest = hashlib.sha256(summary.torn).hexdigest()
            self.append({"event": "recovered", "torn_bytes": len(summary.torn), "torn_sha256": digest})

    def _write(self, data: bytes) -> None:
        if self._unusable is not None:
            self._fail(self._unusable, None)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError as error:
            # Half a line must not stay: the next record would be appended to it.
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError:
                self._unusable = "a record was written in part and cannot be taken back"
            self._fail(error.strerror or str(error), error)

    def _fail(self, why: str, error: OSError | None) -> NoReturn:
        raise AuditUnavailableError(
            f"cannot write the audit log {self._path}: {why}",
            hint="Free some disk space or check the disk; keys are released again when records can be written.",
        ) from error


def verify_audit(path: Path, *, must_contain: str | None = None) -> AuditSummary:
    """Check the whole chain.

    :param must_contain: a hash (hex) that some line must have: one that was the head once, kept elsewhere.
    :raises AuditTamperedError: it is broken; the message says at which line. :raises InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _verify(path, file, must_contain)
    except OSError as error:
        raise explain_os_error(error, path, "read the audit log") from error


def _verify(path: Path, file: BinaryIO, must_contain: str | None) -> AuditSummary:
    records, head, torn = 0, FIRST, b""
    found = must_contain in {None, FIRST}
    for line in _lines(file):
        if not line.endswith(b"\n"):
            if len(line) >= _LONGEST_LINE:
                raise _tampered(path, f"line {records + 1} is longer than any record")
            torn = line
            break
        records += 1
        content = line[:-1]
        _check_link(path, content, records, head)
        head = hashlib.sha256(content).hexdigest()
        found = found or head == must_contain
    if not found:
        raise _tampered(path, f"no line has the hash {must_contain}, so lines are missing or were replaced")
    return AuditSummary(records, head, torn)


def _check_link(path: Path, content: bytes, number: int, previous: str) -> None:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        raise _tampered(path, f"line {number} is no record") from None
    if not isinstance(record, dict) or record.get("sequence") != number or record.get("previous") != previous:
        raise _tampered(path, f"line {number} does not follow from the line before")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(_LONGEST_LINE):
        yield line


def _tampered(path: Path, what: str) -> AuditTamperedError:
    return AuditTamperedError(
        f"the audit log {path} was changed: {what}",
        hint="Keep the file as evidence, find out who changed it, and start a new one by moving it aside.",
    )
