"""The hash tree of a file that is being written, in memory that does not grow with the file.

An MHT node can be encrypted for good only when its children are, and they come later in the file. Until then its 96
entries are parked in its own place, encrypted under a key that only this run knows: 3,072 bytes and a tag fit into the
node. When all data is written, the tree is walked from its leaves to its root, and each node gets its final form.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealserve.sealing.errors import SealBrokenError
from sealserve.sealing.layout import DATA_ENTRIES, ENTRY, KEY, NODE, TAG, mht_children, mht_offset
from sealserve.sealing.metadata import ZERO_IV
from sealserve.sealing.nodes import encrypt_node
from sealserve.sealing.storage import Storage

_PARKED: Final = DATA_ENTRIES + TAG


class TreeBuilder:
    """Parks MHT nodes and finishes them.

    :param secret: 32 random bytes, new for every file: the keys of parked nodes are derived from it.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret or os.urandom(32)

    def _cipher(self, mht: int) -> AESGCM:
        # A keyed hash gives every node a key of its own: the all-zero IV stays safe, for each node is parked once.
        return AESGCM(hashlib.blake2b(mht.to_bytes(8, "little"), key=self._secret, digest_size=KEY).digest())

    def park(self, mht: int, table: memoryview, into: memoryview) -> None:
        """Encrypt the entries of the data nodes under ``mht`` to ``into``, its 4,096-byte place in the group."""
        self._cipher(mht).encrypt_into(ZERO_IV, table[:DATA_ENTRIES], None, into[:_PARKED])
        into[_PARKED:NODE] = bytes(NODE - _PARKED)

    def finish(self, storage: Storage, mht: int, count: int, known: dict[int, bytes] | None = None) -> bytes:
        """Encrypt ``mht`` and everything under it for good; return its entry (key and tag).

        :param count: how many MHT nodes the file has.
        :param known: entries of MHT nodes that are finished already.
        """
        table = memoryview(bytearray(NODE))
        at = DATA_ENTRIES
        for child in mht_children(mht, count):
            entry = known[child] if known and child in known else self.finish(storage, child, count)
            table[at : at + ENTRY] = entry
            at += ENTRY
        parked = bytearray(_PARKED)
        read = storage.read_at(mht_offset(mht), memoryview(parked))
        try:
            self._cipher(mht).decrypt_into(ZERO_IV, memoryview(parked)[:read], None, table[:DATA_ENTRIES])
        except (InvalidTag, ValueError):
            raise SealBrokenError(
                "the encrypted file was changed while it was being written",
                hint="Let nothing else write to the target, and run the command again.",
            ) from None
        sealed, entry = encrypt_node(table)
        storage.write_at(mht_offset(mht), sealed)
        return entry
