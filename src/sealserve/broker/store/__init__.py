"""What the broker keeps: keys, policies and grants at rest, and its audit chain, in one SQL database.

SQLite for one broker, PostgreSQL for several. Neither the database's operator nor a stolen copy of it is trusted:

- Keys are encrypted under a master key that the database never sees, each bound to its name and version.
- Everything that decides (versions of keys, policies, grants) is authenticated as a whole under the same master key, so
  nobody without it can change, swap, add or remove a row (:mod:`~sealserve.broker.store.state`).
- The audit chain is signed with a key that is itself encrypted in the store.

What remains is putting *all* of it back to an earlier copy; see ``docs/broker-operations.md``.
"""

from __future__ import annotations

from sealserve.broker.store.documents import GrantDocument, KeyVersion, StoredPolicy
from sealserve.broker.store.errors import (
    StoreError,
    StoreMissingError,
    StoreTamperedError,
    StoreUnavailableError,
    WrongMasterKeyError,
)
from sealserve.broker.store.master_key import MasterKeyPlace
from sealserve.broker.store.state import StoreState
from sealserve.broker.store.store import Store

__all__ = [
    "GrantDocument",
    "KeyVersion",
    "MasterKeyPlace",
    "Store",
    "StoreError",
    "StoreMissingError",
    "StoreState",
    "StoreTamperedError",
    "StoreUnavailableError",
    "StoredPolicy",
    "WrongMasterKeyError",
]
