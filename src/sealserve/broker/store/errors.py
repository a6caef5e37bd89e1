"""What can be wrong with a store."""

from __future__ import annotations

from sealserve.errors import InputError, MachineError, TrustError


class StoreError(InputError):
    """The store is not one that this version of sealserve can use."""


class StoreMissingError(StoreError):
    """There is no store at the place that the settings name."""


class StoreUnavailableError(MachineError):
    """The database cannot be reached or written now: it is down, locked, read-only, or its disk is full."""


class StoreTamperedError(TrustError):
    """What the database holds is not what a broker or its administration wrote."""


class WrongMasterKeyError(TrustError):
    """The master key is not the one that the store is encrypted under."""
