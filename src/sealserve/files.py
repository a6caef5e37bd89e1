"""Writing files so that a crash, a full disk or a second run never leaves half a file under the final name.

Everything is written beside its destination, synced, and renamed over it. What is being written is locked, so that what
a killed run left can be told from what another run is writing, and be removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sealserve.errors import InputError, KeyFileError, MachineError, SealserveError
from sealserve.secret import Secret

PRIVATE = 0o600
PUBLIC = 0o644
_PARTIAL = re.compile(r"\.(.*)\.[0-9a-f]{12}\.partial", re.DOTALL)
NAME_KEPT = 50
"""Characters of a name, of at most four bytes each, that still fit into 255 bytes with what is put around them."""


def explain_os_error(error: OSError, path: Path | str, action: str) -> SealserveError:
    """Turn an operating-system error about ``path`` into one that says what to do.

    :param action: what was tried, as a verb: ``"write"``, ``"read"``.
    """
    text = f"cannot {action} {path}: {os.strerror(error.errno) if error.errno else error}"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return MachineError(
                text, hint="Free some disk space or choose another directory, then run the command again."
            )
        case errno.EROFS:
            return MachineError(text, hint="The file system is read-only: choose a directory you can write to.")
        case errno.ENOENT:
            return InputError(text, hint="Check the path.")
        case errno.EACCES | errno.EPERM:
            return InputError(text, hint="Check the owner and the permissions of the path.")
        case _:
            return InputError(text)


@contextlib.contextmanager
def atomic_writer(path: Path, *, mode: int = PUBLIC) -> Iterator[BinaryIO]:
    """Open a file that appears under ``path`` only when the block ends without an error, synced to disk.

    :param mode: permission bits of the new file, exactly (the umask does not apply).
    :raises MachineError: the disk is full or read-only. :raises InputError: the directory is missing or not writable.
    """
    beside = partial_path(path)
    try:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        raise explain_os_error(error, path, "write") from error
    try:
        with os.fdopen(descriptor, "w+b") as file:
            lock_partial(descriptor)
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            beside.replace(path)
        sync_directory(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise explain_os_error(error, path, "write") from error
        raise


def partial_path(path: Path) -> Path:
    """A new name beside ``path`` for what is not complete yet; :func:`is_partial` knows it."""
    return path.with_name(f".{path.name[:NAME_KEPT]}.{os.urandom(6).hex()}.partial")


def partial_of(name: str) -> str | None:
    """The beginning (50 characters) of the name for which :func:`partial_path` made ``name``; None for other names."""
    found = _PARTIAL.fullmatch(name)
    return found[1] if found else None


def lock_partial(descriptor: int) -> None:
    """Lock what is being written, for as long as ``descriptor`` (and its copies) are open."""
    # Where there are no locks (some network file systems, Gramine), nothing is ever taken for left behind.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_atomically(path: Path, data: bytes | str, *, mode: int = PUBLIC) -> None:
    """Write a whole file at once; see :func:`atomic_writer`."""
    with atomic_writer(path, mode=mode) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def sync_directory(path: Path) -> None:
    """Make a rename inside ``path`` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_secret_file(path: Path, *, size: int | None = None, insecure_allow_readable_by_others: bool = False) -> Secret:
    """Read a key file.

    :param size: the exact size in bytes that the file must have.
    :param insecure_allow_readable_by_others: accept a file that group or others can read.
    :raises KeyFileError: the file is missing, has another size, or is readable by others.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(1 << 20)
    except OSError as error:
        raise KeyFileError(
            f"cannot read the key file {path}: {error.strerror}",
            hint="Check the path; `sealserve key generate` makes a new wrap key.",
        ) from error
    if not insecure_allow_readable_by_others and stat.S_IMODE(status.st_mode) & 0o077:
        raise KeyFileError(
            f"the key file {path} can be read by others (mode {stat.S_IMODE(status.st_mode):04o})",
            hint=f"Run `chmod 600 {path}`.",
        )
    if size is not None and len(data) != size:
        raise KeyFileError(
            f"the key file {path} has {len(data)} bytes; it must have exactly {size} raw bytes",
            hint="Name the right file, or restore it from a backup: what was sealed under it opens with no other key.",
        )
    return Secret(data)


def read_file(path: Path, *, limit: int = 16 << 20) -> bytes:
    """Read a whole file of at most ``limit`` bytes that is not secret.

    :raises InputError: it is missing, unreadable, or larger than ``limit``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise explain_os_error(error, path, "read") from error
    if len(data) > limit:
        raise InputError(f"{path} is larger than the {limit} bytes allowed here", hint="Is it the right file?")
    return data


def read_authority_file(path: Path) -> bytes:
    """Read a certificate authority's file that is measured, and so goes to others byte for byte.

    :raises InputError: it cannot be read, holds no certificate in PEM, or a private key as well.
    """
    data = read_file(path)
    if b"-----BEGIN CERTIFICATE-----" not in data or b"\0" in data:  # quotes have certificates in them
        raise InputError(f"{path} holds no certificate in PEM", hint="Give the key broker's certificate authority.")
    if b"PRIVATE KEY-----" in data:
        raise InputError(
            f"{path} holds a private key, and everybody would get it", hint="Give a file with the certificate alone."
        )
    return data


def make_directory(path: Path, *, mode: int = 0o700) -> Path:
    """Make a directory (parents too) with exactly ``mode``; an existing one is left as it is."""
    try:
        if not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=mode, exist_ok=True)  # never wider than this, not even for a moment
            path.chmod(mode)
    except OSError as error:
        raise explain_os_error(error, path, "create") from error
    return path
