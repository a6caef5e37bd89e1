"""Wrap keys, and the keys that are derived from them."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import cmac
from cryptography.hazmat.primitives.ciphers import algorithms

from sealserve.errors import KeyFileError
from sealserve.files import PRIVATE, read_secret_file, write_atomically
from sealserve.sealing.storage import refuse_irregular
from sealserve.secret import Secret

WRAP_KEY: Final = 16
"""Bytes of a wrap key."""
NONCE: Final = 32
_LABEL: Final = b"SGX-PROTECTED-FS-METADATA-KEY".ljust(64, b"\0")


def check_wrap_key(key: Secret) -> Secret:
    """Give ``key`` back if it has 16 bytes.

    :raises KeyFileError: it has not.
    """
    if len(key) != WRAP_KEY:
        raise KeyFileError(f"a wrap key has exactly {WRAP_KEY} bytes; this one has {len(key)}")
    return key


def metadata_key(key: Secret, nonce: bytes) -> bytes:
    """The key of a metadata node: AES-128-CMAC in counter mode (NIST SP 800-108) under the wrap key.

    :param nonce: 32 bytes.
    """
    mac = cmac.CMAC(algorithms.AES128(bytes(check_wrap_key(key).reveal())))
    mac.update(struct.pack("<I64s32sI", 1, _LABEL, nonce, 0x80))
    return mac.finalize()


def generate_wrap_key(path: Path, *, replace: bool = False) -> None:
    """Write a new wrap key, 16 raw random bytes, readable by its owner alone.

    :param replace: write over an existing file. What was sealed under the old key can then not be opened any more.
    :raises KeyFileError: the file exists and ``replace`` is not set.
    :raises SealingTargetError: it is a link or no regular file, which is never replaced.
    """
    if not replace and os.path.lexists(path):
        raise KeyFileError(
            f"{path} exists already",
            hint="Choose another name; `--force` replaces the key, and what was sealed under it is lost.",
        )
    refuse_irregular(path)
    write_atomically(path, os.urandom(WRAP_KEY), mode=PRIVATE)


def read_wrap_key(path: Path, *, insecure_allow_readable_key: bool = False) -> Secret:
    """Read a wrap key file.

    :raises KeyFileError: it is missing, has not exactly 16 bytes, or is readable by others (unless allowed).
    """
    return read_secret_file(path, size=WRAP_KEY, insecure_allow_readable_by_others=insecure_allow_readable_key)
