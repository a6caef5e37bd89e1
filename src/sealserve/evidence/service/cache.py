"""Collateral on disk, one file for each kind of platform, for this process and others.

A file is written whole or not at all. What it holds is checked like an answer of the service when it is read, so that
it needs no protection; a file that cannot be used is ignored and will be replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sealserve.errors import EvidenceError, InputError, SealserveError
from sealserve.evidence.collateral import Collateral
from sealserve.files import make_directory, read_file, write_atomically
from sealserve.logs import event, get_logger

_FORMAT = 1
_SIZE_LIMIT = 2 << 20
_LOCK_INTERVAL = 0.02  # seconds between two attempts to get the lock

_log = get_logger(__name__)


@dataclass(frozen=True)
class Stored:
    """A set of collateral, and when it was fetched."""

    collateral: Collateral
    fetched_at: datetime


class CollateralCache:
    """A directory of collateral. Several processes and threads may use it at the same time.

    :param directory: made when something is first stored in it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read(self, name: str) -> Stored | None:
        """What is stored under a name, parsed and not verified; none if there is nothing usable."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            entry = json.loads(read_file(path, limit=_SIZE_LIMIT))
            if entry["format"] != _FORMAT:
                raise ValueError("another format")  # noqa: TRY301 - joins the other causes below
            fetched_at = datetime.fromisoformat(entry["fetched_at"]).astimezone(UTC)
            return Stored(Collateral.from_json(json.dumps(entry["collateral"])), fetched_at)
        except (InputError, EvidenceError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            self.ignore(name, error)
            return None

    def ignore(self, name: str, why: Exception) -> None:
        """Log that a file cannot be used."""
        event(_log, logging.WARNING, "collateral-cache-file-ignored", path=self._path(name), reason=why)

    def write(self, name: str, stored: Stored) -> None:
        """Store collateral.

        A disk that is full or read-only is logged, and the collateral serves this process all the same.
        """
        entry = {
            "format": _FORMAT,
            "fetched_at": stored.fetched_at.isoformat(),
            "collateral": json.loads(stored.collateral.text),
        }
        try:
            make_directory(self.directory)
            write_atomically(self._path(name), json.dumps(entry, indent=1))
        except (SealserveError, OSError) as error:
            event(_log, logging.WARNING, "collateral-cache-not-written", path=self._path(name), reason=error)

    @contextlib.contextmanager
    def locked(self, name: str, *, deadline: float) -> Iterator[None]:
        """Keep others from fetching the same at the same time.

        :param deadline: by ``time.monotonic``. When it is reached, or there can be no lock, the block runs without:
            fetching twice does no harm.
        """
        with contextlib.ExitStack() as stack:
            try:
                make_directory(self.directory)
                path = self._path(name).with_suffix(".lock")
                file = stack.enter_context(path.open("ab"))
                _lock(file.fileno(), deadline)
            except (SealserveError, OSError) as error:
                event(_log, logging.DEBUG, "collateral-cache-not-locked", path=self.directory, reason=error)
            yield

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}.json"


def _lock(descriptor: int, deadline: float) -> None:
    """Take the lock, which ends when the file is closed; give up at the deadline."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return
            time.sleep(_LOCK_INTERVAL)
        else:
            return
