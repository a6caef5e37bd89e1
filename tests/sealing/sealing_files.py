"""Helpers of the sealing tests: plaintexts, and encrypted files in memory."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealserve.sealing import EncryptedReader, EncryptedWriter, FormatVersion
from sealserve.sealing.keys import metadata_key
from sealserve.secret import Secret

DATA = Path(__file__).parent / "data"
KEY = bytes(range(16))
GROUP = 96 * 4096
BORDERS = [0, 1, 2, 3071, 3072, 3073, 4095, 4096, 4097, 7167, 7168, 7169]
"""Sizes around the head, the first node and the second."""


def golden(size: int) -> bytes:
    """The plaintext of Gramine's vectors."""
    return b"".join(hashlib.sha256(i.to_bytes(8, "big")).digest() for i in range(-(-size // 32)))[:size]


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes that tell their position, quickly."""
    return hashlib.shake_128(seed.to_bytes(8, "big")).digest(size)


def sealed(plain: bytes, *, path: str = "/models/x", version: FormatVersion = 2, key: bytes = KEY) -> bytes:
    """``plain`` as an encrypted file."""
    file = io.BytesIO()
    with EncryptedWriter(file, Secret(key), path, version=version) as writer:
        writer.write(plain)
    return file.getvalue()


def opened(data: bytes, *, path: str | None = None, key: bytes = KEY, allow_trailing: bool = False) -> bytes:
    """The plaintext of an encrypted file."""
    reader = EncryptedReader(io.BytesIO(data), Secret(key), expected_path=path, allow_trailing=allow_trailing)
    return reader.read()


class ReferenceFile:
    """An encrypted file read by the letter of the format's description, sharing nothing but the key derivation."""

    def __init__(self, data: bytes, key: bytes = KEY) -> None:
        assert data[:8] == b"GRAFS_PF"
        assert len(data) % 4096 == 0
        self.data, self.version = data, data[8]
        start = {1: 58, 2: 59}[self.version]
        secret = self._open(metadata_key(Secret(key), data[10:42]), data[start : start + 3884], data[42:58])
        self.padding = data[start + 3884 : 4096]
        self.path_field, self.size = secret[:772], int.from_bytes(secret[772:780], "little")
        self.root, self.head = secret[780:812], secret[812:]
        self.keys: list[bytes] = [self.root[:16]]
        self.tables: dict[int, bytes] = {}
        self.nodes: dict[int, bytes] = {}

    @staticmethod
    def _open(key: bytes, sealed_bytes: bytes, tag: bytes) -> bytes:
        return AESGCM(key).decrypt(bytes(12), sealed_bytes + tag, None)

    def node(self, number: int, entry: bytes) -> bytes:
        self.keys.append(entry[:16])
        return self._open(entry[:16], self.data[number * 4096 : (number + 1) * 4096], entry[16:])

    def plaintext(self) -> bytes:
        data_nodes = -(-max(0, self.size - 3072) // 4096)
        mht_nodes = -(-data_nodes // 96)
        for mht in range(mht_nodes):
            if mht == 0:
                entry = self.root
            else:
                parent, slot = (mht - 1) // 32, (mht - 1) % 32
                entry = self.tables[parent][3072 + 32 * slot : 3104 + 32 * slot]
            self.tables[mht] = self.node(1 + 97 * mht, entry)
        for data in range(data_nodes):
            mht, slot = divmod(data, 96)
            self.nodes[data] = self.node(data + 2 + mht, self.tables[mht][32 * slot : 32 * slot + 32])
        assert len(self.data) == 4096 * (1 + mht_nodes + data_nodes)
        return (self.head + b"".join(self.nodes[i] for i in range(data_nodes)))[: self.size]


__all__ = ["BORDERS", "DATA", "GROUP", "KEY", "InvalidTag", "ReferenceFile", "golden", "opened", "pattern", "sealed"]
