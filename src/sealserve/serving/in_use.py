"""A loaded version and the requests that use it: it is closed when it is removed and the last of them is done."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sealserve.logs import get_logger
from sealserve.serving.engine import LoadedModel

_log = get_logger(__name__)


class LoadedVersion:
    """Counts the requests that use a version. Safe to use from several threads.

    :param closed: called once, when the version was removed, its last request is done and it was closed; from whatever
        thread did that.
    :param digest: of what it was loaded from, as receipts name it; empty if there is none.
    """

    __slots__ = ("_closed", "_lock", "_removed", "_requests", "digest", "loaded", "version")

    def __init__(
        self, version: int, loaded: LoadedModel, closed: Callable[[], None] | None = None, digest: bytes = b""
    ) -> None:
        self.version = version
        self.loaded = loaded
        self.digest = digest
        self._closed = closed
        self._lock = threading.Lock()
        self._requests = 0
        self._removed = False

    def take(self) -> bool:
        """Count one more request; False if the version was removed."""
        with self._lock:
            if self._removed:
                return False
            self._requests += 1
            return True

    def give_back(self) -> None:
        """A request is done."""
        with self._lock:
            self._requests -= 1
            last = self._removed and not self._requests
        if last:
            self._close()

    def remove(self) -> None:
        """No new request is to use it. To be called once, when it cannot be found any more."""
        with self._lock:
            self._removed = True
            idle = not self._requests
        if idle:
            self._close()

    def _close(self) -> None:
        try:
            self.loaded.close()
        except Exception:  # noqa: BLE001 - it is nothing to the request that happened to be the last
            _log.exception("model-close-failed")
        if self._closed is not None:
            self._closed()
