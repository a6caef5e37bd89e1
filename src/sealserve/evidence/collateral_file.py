"""Collateral in a file, which somebody renews from time to time."""

from __future__ import annotations

import logging
import math
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from sealserve.errors import InputError, SealserveError
from sealserve.evidence.collateral import SIZE_LIMIT, Collateral
from sealserve.evidence.errors import CollateralError, CollateralMalformedError, named_in_policy
from sealserve.files import explain_os_error, read_file
from sealserve.logs import event, get_logger

_log = get_logger(__name__)
_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 1.0, 2.0


class FileCollateral:
    """Collateral from a JSON file, read again when the file changes. Safe for several threads.

    :param named_by: the policy that names the file, for errors; empty if none does.
    """

    def __init__(self, path: Path, *, named_by: str = "") -> None:
        self.path = path
        self._named_by = named_by
        self._lock = threading.Lock()
        self._looks = threading.Lock()
        self._state: tuple[int, int, int] | None = None
        self._current: Collateral | None = None
        self._window = 0.0
        self._looked_at = self._look_began = -math.inf
        self._look: Future[Collateral] | None = None

    def would_block(self) -> bool:
        """Whether :meth:`collateral` would wait for the file system: for callers that must not.

        Who asks this has the file looked at once a second, and not with every quote. A look takes two seconds at most:
        if the file system hangs, what was read before serves until it expires.
        """
        self._window = _LOOK_SECONDS
        return self._current is None or not self._may_use_current()

    def collateral(self, quote: bytes) -> Collateral:  # noqa: ARG002
        """The collateral in the file, whatever the quote.

        :raises CollateralMalformedError: the file holds something else. :raises InputError: it cannot be read.
        """
        if not self._window:
            return self._read()
        current = self._current
        if current is not None and self._may_use_current():
            return current
        try:
            return self._started_look().result(_LONGEST_LOOK_SECONDS)
        except TimeoutError:
            if current is None:
                raise InputError(
                    f"{self.path} cannot be read: its file system does not answer",
                    hint="Put the collateral on a local disk.",
                ) from None
            event(_log, logging.WARNING, "collateral-file-hangs", path=self.path, valid_until=current.expires)
            return current

    def _may_use_current(self) -> bool:
        now = time.monotonic()
        hangs = self._look is not None and now >= self._look_began + _LONGEST_LOOK_SECONDS
        return hangs or now < self._looked_at + self._window

    def _started_look(self) -> Future[Collateral]:
        with self._looks:
            if self._look is None:
                look: Future[Collateral] = Future()
                thread = threading.Thread(target=self._look_at_file, args=(look,), name="collateral-file", daemon=True)
                thread.start()
                self._look, self._look_began = look, time.monotonic()
            return self._look

    def _look_at_file(self, look: Future[Collateral]) -> None:
        found: Collateral | None = None
        failure: BaseException | None = None
        try:
            found = self._read()
        except BaseException as error:  # noqa: BLE001 - those who wait must hear of it
            failure = error
        with self._looks:
            self._look = None
            if found is None:
                self._current = None  # until it can be read
            else:
                self._looked_at = time.monotonic()
        if found is None:
            look.set_exception(failure)
        else:
            look.set_result(found)

    def _read(self) -> Collateral:
        try:
            status = self.path.stat()
        except OSError as error:
            raise self._unreadable(error) from error
        state = (status.st_ino, status.st_size, status.st_mtime_ns)
        with self._lock:
            current = self._current
            if current is None or state != self._state:
                try:
                    current = Collateral.from_json(read_file(self.path, limit=SIZE_LIMIT))
                except CollateralError as error:
                    raise CollateralMalformedError(
                        f"{self.path}: {error.message}", hint="Fetch the collateral again."
                    ) from error
                self._current, self._state = current, state
            return current

    def _unreadable(self, error: OSError) -> SealserveError:
        found = explain_os_error(error, self.path, "read")
        return named_in_policy(found, self._named_by, "collateral") if self._named_by else found
