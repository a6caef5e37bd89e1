"""The metadata node: what is readable by all, and what the wrap key opens.

Plaintext part: file id (8 bytes, ``GRAFS_PF``), major version, minor version, nonce of the metadata key (32), tag (16),
and in version 2 one byte of feature flags. The encrypted part of 3,884 bytes follows: path (772, NUL-padded), plaintext
size (8), key (16) and tag (16) of the root MHT node, the first 3,072 bytes of the plaintext. The rest is padding.
Integers are little-endian. Minor version, feature flags and padding are not authenticated.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealserve.sealing.errors import (
    NotSealedError,
    RecoveryNeededError,
    SealBrokenError,
    SealedLengthError,
    UnsupportedFormatError,
)
from sealserve.sealing.keys import NONCE, metadata_key
from sealserve.sealing.layout import HEAD, KEY, NODE, PATH_FIELD, TAG, FormatVersion
from sealserve.secret import Secret

FILE_ID: Final = b"GRAFS_PF"
PENDING_WRITE: Final = 1
ZERO_IV: Final = bytes(12)
_PLAIN: Final = struct.Struct(f"<8sBB{NONCE}s{TAG}s")
_SECRET: Final = struct.Struct(f"<{PATH_FIELD}sQ{KEY}s{TAG}s{HEAD}s")


@dataclass(frozen=True)
class Preamble:
    """What everybody can read of a metadata node. Nothing here but the version, nonce and tag is authenticated."""

    version: FormatVersion
    minor_version: int
    nonce: bytes
    tag: bytes
    feature_flags: int

    @property
    def identity(self) -> bytes:
        """48 bytes that no other encrypted file under the same wrap key shares: the nonce and the tag."""
        return self.nonce + self.tag

    @property
    def start(self) -> int:
        """Where the encrypted part begins in the node, in bytes."""
        return _PLAIN.size + (self.version == 2)


@dataclass(frozen=True)
class Metadata:
    """What the wrap key opens: all of it is authenticated."""

    path: bytes
    size: int
    root_key: bytes
    root_tag: bytes
    head: bytes


def read_preamble(node: bytes | bytearray) -> Preamble:
    """Read the public part of a metadata node.

    :param node: the first 4,096 bytes of the file.
    :raises NotSealedError: it is no encrypted file. :raises UnsupportedFormatError: its version is not 1 or 2.
    :raises SealedLengthError: there are fewer bytes.
    """
    if bytes(node[: len(FILE_ID)]) != FILE_ID:
        raise NotSealedError(
            "this is not an encrypted file of Gramine's format",
            hint="It must begin with `GRAFS_PF`. Seal it first, or check the path.",
        )
    if len(node) < NODE:
        raise SealedLengthError(f"the encrypted file has only {len(node)} bytes; the smallest has {NODE}")
    _, major, minor, nonce, tag = _PLAIN.unpack_from(node)
    if major == 1:
        return Preamble(1, minor, nonce, tag, 0)
    if major == 2:
        return Preamble(2, minor, nonce, tag, node[_PLAIN.size])
    raise UnsupportedFormatError(
        f"the encrypted file has format version {major}; 1 and 2 are known",
        hint="It was made by a newer Gramine, or its header was changed.",
    )


def open_metadata(node: bytes | bytearray, key: Secret) -> tuple[Preamble, Metadata]:
    """Read and authenticate a metadata node; the exceptions of :func:`read_preamble`, and:

    :raises SealBrokenError: another wrap key, or changed. :raises RecoveryNeededError: a write was interrupted.
    """
    preamble = read_preamble(node)
    if preamble.feature_flags & PENDING_WRITE:
        raise RecoveryNeededError(
            "a write to the encrypted file was interrupted",
            hint="Open it once in Gramine with `enable_recovery = true` and its recovery file, or seal it again.",
        )
    sealed = bytes(node[preamble.start : preamble.start + _SECRET.size])
    try:
        plain = AESGCM(metadata_key(key, preamble.nonce)).decrypt(ZERO_IV, sealed + preamble.tag, None)
    except InvalidTag:
        raise SealBrokenError(
            "the encrypted file does not open: another wrap key, or its header was changed",
            hint="Check that this is the wrap key under which the file was sealed.",
        ) from None
    path, size, root_key, root_tag, head = _SECRET.unpack(plain)
    return preamble, Metadata(path.split(b"\0", 1)[0], size, root_key, root_tag, head)


def make_metadata(metadata: Metadata, key: Secret, version: FormatVersion) -> bytes:
    """Encrypt a metadata node under a fresh nonce: 4,096 bytes."""
    nonce = os.urandom(NONCE)
    plain = _SECRET.pack(metadata.path, metadata.size, metadata.root_key, metadata.root_tag, metadata.head)
    sealed = AESGCM(metadata_key(key, nonce)).encrypt(ZERO_IV, plain, None)
    public = _PLAIN.pack(FILE_ID, version, 0, nonce, sealed[-TAG:])
    flags = b"\0" if version == 2 else b""
    return (public + flags + sealed[:-TAG]).ljust(NODE, b"\0")
