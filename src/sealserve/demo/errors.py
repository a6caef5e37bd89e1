"""What ends a demonstration that does not show what it has to show. Either is a defect in sealserve."""

from __future__ import annotations

from sealserve.errors import SealserveError

_HINT = "This is a defect in sealserve: please report it, with the logs in the working directory."


class DemonstrationFailedError(SealserveError):
    """A step did not happen as it has to."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint=_HINT)


class PlaintextFoundError(DemonstrationFailedError):
    """Plaintext lay where the platform could read it, or the search for it is broken."""
