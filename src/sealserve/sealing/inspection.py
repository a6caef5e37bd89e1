"""What can be said of an encrypted file or a sealed model, with the wrap key and without it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealserve.errors import InputError, SealError
from sealserve.files import explain_os_error
from sealserve.logs import printable
from sealserve.sealing.errors import named
from sealserve.sealing.layout import GROUP, HEAD, MAX_SIZE, NODE
from sealserve.sealing.listing import INCOMPLETE_NAME, RESERVED
from sealserve.sealing.metadata import read_preamble
from sealserve.sealing.model import SealedModel, embedded_mount, incomplete, open_sealed_model, scan
from sealserve.sealing.reader import EncryptedReader
from sealserve.sealing.storage import is_directory, open_regular
from sealserve.secret import Secret


@dataclass(frozen=True)
class FileInspection:
    """One encrypted file.

    ``path`` and ``size`` need the key. ``size_range`` follows from the length on disk: sizes are not hidden.
    """

    location: str
    version: int
    minor_version: int
    feature_flags: int
    length: int
    size_range: tuple[int, int]
    path: str | None = None
    size: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        report: dict[str, Any] = {
            "file": self.location,
            "format": f"{self.version}.{self.minor_version}",
            "feature_flags": self.feature_flags,
            "encrypted_bytes": self.length,
            "plaintext_bytes_at_least": self.size_range[0],
            "plaintext_bytes_at_most": self.size_range[1],
            "opened": self.path is not None,
        }
        if self.path is not None:
            report |= {"path": self.path, "plaintext_bytes": self.size}
        return report

    def as_text(self) -> str:
        """For people."""
        lines = [
            f"{printable(self.location)}: encrypted file of Gramine's format, "
            f"version {self.version}.{self.minor_version}"
            + (" (Gramine up to 1.8)" if self.version == 1 else " (Gramine 1.9 and later)"),
            f"  on disk      {self.length:,} bytes, {self.length // NODE:,} nodes",
        ]
        if self.version == 2:
            lines.append(f"  flags        {self.feature_flags:#04x} (not authenticated)")
        if self.path is None:
            lines += [
                f"  content      {self.size_range[0]:,} to {self.size_range[1]:,} bytes (from the length on disk)",
                "  without the wrap key nothing else can be read, and none of this is authenticated",
            ]
        else:
            lines += [
                f"  path         {printable(self.path)}",
                f"  content      {self.size:,} bytes",
                "  authenticated here: path, size, and the first 3,072 bytes; `sealserve seal verify` checks the rest",
                "  never authenticated: minor version, flags, padding; nor that this is the newest copy",
            ]
        return "\n".join(lines)


@dataclass(frozen=True)
class ModelInspection:
    """A sealed directory; ``model`` needs the key."""

    directory: str
    files: tuple[FileInspection, ...]
    model: SealedModel | None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        report: dict[str, Any] = {"directory": self.directory, "opened": self.model is not None}
        if self.model:
            report |= {
                "digest": self.model.digest.hex(),
                "mount": self.model.mount,
                "plaintext_bytes": self.model.total_size,
                "listed": [{"name": f.name, "size": f.size, "sha256": f.sha256.hex()} for f in self.model.files],
            }
        return report | {"files": [file.as_dict() for file in self.files]}

    def as_text(self) -> str:
        """For people."""
        if self.model is None:
            listed = [
                f"  {printable(f.location)}  version {f.version}.{f.minor_version}  {f.length:,} bytes"
                for f in self.files
            ]
            return "\n".join(
                [
                    f"{printable(self.directory)}: a directory with {len(self.files)} encrypted files",
                    *listed,
                    "without the wrap key nothing else can be read, and none of this is authenticated",
                ]
            )
        width = max(len(f"{file.size:,}") for file in self.model.files)
        return "\n".join(
            [
                f"{printable(self.directory)}: sealed model",
                f"  digest       {self.model.digest.hex()}",
                f"  mount        {printable(self.model.mount)}",
                f"  content      {self.model.total_size:,} bytes in {len(self.model.files)} files",
                *(f"  {f.size:>{width},}  {f.sha256.hex()}  {printable(f.name)}" for f in self.model.files),
                "  authenticated here: the list, and that every file is the one that was sealed with it;",
                "  `sealserve seal verify` reads and checks all content",
            ]
        )


def inspect(path: Path, key: Secret | None = None) -> FileInspection | ModelInspection:
    """Look into an encrypted file or a sealed directory.

    :param key: the wrap key; without it only what everybody can read is told.
    :raises SealError: a subclass by cause. :raises InputError: it cannot be read.
    """
    if not is_directory(path):
        return inspect_file(path, key)
    if key is not None:
        model = open_sealed_model(path, key, mount=embedded_mount(path, key))
        names = sorted([*(file.name for file in model.files), *(RESERVED & scan(path)[0])])
    else:
        model, names = None, sorted(scan(path)[0])
    if not names:
        raise InputError(f"{path} is empty", hint="Give a sealed model or an encrypted file.")
    if INCOMPLETE_NAME in names:
        raise incomplete(path)
    return ModelInspection(
        str(path), tuple(inspect_file(path / name, key, follow_links=False) for name in names), model
    )


def inspect_file(path: Path, key: Secret | None = None, *, follow_links: bool = True) -> FileInspection:
    """Look into one encrypted file; as :func:`inspect`.

    :param follow_links: whether ``path`` may be a link.
    """
    embedded: str | None = None
    size: int | None = None
    # Opened once: all that is told is of the same file.
    with open_regular(path, follow_links=follow_links) as file:
        length = os.fstat(file.fileno()).st_size
        try:
            preamble = read_preamble(os.pread(file.fileno(), NODE, 0))
        except SealError as error:
            raise named(error, printable(str(path))) from None
        except OSError as error:
            raise explain_os_error(error, path, "read") from error
        if key is not None:
            reader = EncryptedReader(file, key)
            preamble, embedded, size = reader.preamble, reader.path, reader.size
    return FileInspection(
        str(path),
        preamble.version,
        preamble.minor_version,
        preamble.feature_flags,
        length,
        _sizes(length),
        embedded,
        size,
    )


def _sizes(length: int) -> tuple[int, int]:
    """The smallest and the largest plaintext in an encrypted file of ``length`` bytes."""
    nodes = length // NODE - 1
    data = nodes - -(-nodes // GROUP)
    if data <= 0:
        return 0, HEAD
    return HEAD + (data - 1) * NODE + 1, min(HEAD + data * NODE, MAX_SIZE)
