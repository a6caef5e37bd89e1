"""Files in the memory of a Gramine enclave, where there is no memfd_create(2).

Gramine keeps the files of a mount of type ``tmpfs`` in the memory of the process that writes them: encrypted by the
processor inside SGX, out of the host's reach, gone with the process. Such a file has a name, which nobody else can
follow, and must be removed for its memory to be free again.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

from sealserve.errors import MachineError

PLACE = Path("/tmp")  # noqa: S108 - of the enclave, not of the host
"""Where the manifest must mount a ``tmpfs``, without a ``uri``."""


class EnclaveFile(io.BufferedRandom):
    """A new file in the enclave's memory, open for reading and writing; closing it removes it.

    :param name: for people, without ``/``; at most 200 bytes.
    :raises MachineError: :data:`PLACE` is not in the enclave's memory. :raises OSError: no memory is left.
    """

    def __init__(self, name: str) -> None:
        if not _in_enclave(PLACE):
            raise MachineError(
                f"there are no memory files here (memfd_create), and {PLACE} is not in an enclave's memory",
                hint=f'Under Gramine, let the manifest mount {{ type = "tmpfs", path = "{PLACE}" }}, without a uri. '
                "Elsewhere, run it on Linux 3.17 or later.",
            )
        self._path = PLACE / f"{name}.{os.urandom(8).hex()}"
        self._keepers = 0
        super().__init__(io.FileIO(self._path, "x+"))

    @contextlib.contextmanager
    def kept(self) -> Iterator[str]:
        """Its path, at which it stays until the block ends though it is closed before."""
        self._keepers += 1
        try:
            yield str(self._path)
        finally:
            self._keepers -= 1
            if self.closed and not self._keepers:
                self._path.unlink()

    def close(self) -> None:
        """Close it, and free its memory unless it is kept."""
        if self.closed:
            return
        try:
            super().close()
        finally:
            if not self._keepers:
                self._path.unlink()


def _in_enclave(place: Path) -> bool:
    # Gramine makes the number of a device from the mount's URI, and a tmpfs has none; a kernel gives 0 to nothing that
    # is mounted. So no directory of the host passes, which it would read the plaintext from.
    return place.is_dir() and place.stat().st_dev == 0
