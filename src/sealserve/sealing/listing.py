"""The list of a sealed model's files: what names the model, and what ties the sealed files to it.

Two encrypted files lie beside the model's own:

``sealserve.manifest``
    The *list*: for every file its name, size and the SHA-256 of its plaintext, and the names of empty directories, as
    canonical JSON (UTF-8, keys sorted, no spaces, names sorted by their bytes). The SHA-256 of these bytes is the
    **model digest**. It depends on the content alone: the same model sealed again, under another key, format version or
    mount path, has the same digest.

``sealserve.seals``
    The *seals*: the model digest, and for every file the nonce and tag of its metadata node. They tell this sealing of
    a file from every other one under the same key, so an older or another copy is refused when the model is opened,
    before any of its content is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from sealserve.sealing.errors import ModelListError
from sealserve.sealing.layout import MAX_PATH, MAX_SIZE

LIST_NAME: Final = "sealserve.manifest"
SEALS_NAME: Final = "sealserve.seals"
INCOMPLETE_NAME: Final = "sealserve.incomplete"
"""An ordinary file that stands in the directory while it is being written."""
RESERVED: Final = frozenset({LIST_NAME, SEALS_NAME, INCOMPLETE_NAME})
MAX_LIST_BYTES: Final = 64 << 20
_LIST_FORMAT: Final = "sealserve model list"
_SEALS_FORMAT: Final = "sealserve seals"
_HEX: Final = re.compile(r"[0-9a-f]*")


@dataclass(frozen=True)
class SealedFile:
    """A file of a model: its relative name, and the size in bytes and SHA-256 (32 bytes) of its plaintext."""

    name: str
    size: int
    sha256: bytes


@dataclass(frozen=True)
class ModelList:
    """The list of a model's files, sorted by the bytes of their names."""

    files: tuple[SealedFile, ...]
    directories: tuple[str, ...] = ()
    """Directories without files in them."""

    @classmethod
    def of(cls, files: Iterable[SealedFile], directories: Iterable[str] = ()) -> ModelList:
        """A list in its canonical order."""
        return cls(
            tuple(sorted(files, key=lambda file: file.name.encode())), tuple(sorted(directories, key=str.encode))
        )

    def encode(self) -> bytes:
        """The canonical JSON whose SHA-256 is the model digest."""
        return _canonical(
            {
                "format": _LIST_FORMAT,
                "version": 1,
                "files": [{"name": f.name, "size": f.size, "sha256": f.sha256.hex()} for f in self.files],
                "directories": list(self.directories),
            }
        )

    @property
    def digest(self) -> bytes:
        """The model digest, 32 bytes."""
        return hashlib.sha256(self.encode()).digest()

    @classmethod
    def decode(cls, data: bytes) -> ModelList:
        """Read a list.

        :raises ModelListError: it is not one, not canonical, or names a file outside the directory.
        """
        content = _load(data, _LIST_FORMAT, {"files", "directories"})
        files, directories = content["files"], content["directories"]
        if not isinstance(files, list) or not isinstance(directories, list):
            raise _malformed("its files or directories are no lists")
        read = cls(tuple(_file(item) for item in files), tuple(_name(item) for item in directories))
        if read.encode() != data or cls.of(read.files, read.directories) != read:
            raise _malformed("it is not in canonical form")
        names = [file.name for file in read.files] + list(read.directories)
        taken = set(names)
        parents = {name[:at] for name in names for at, character in enumerate(name) if character == "/"}
        if len(taken) < len(names) or taken & parents:
            raise _malformed("a name stands in it twice")
        return read


@dataclass(frozen=True)
class Seals:
    """Which sealing of each file belongs to a model."""

    model: bytes
    identities: dict[str, bytes]
    """48 bytes for every file name."""

    def encode(self) -> bytes:
        """Canonical JSON."""
        files = {name: identity.hex() for name, identity in self.identities.items()}
        return _canonical({"format": _SEALS_FORMAT, "version": 1, "model": self.model.hex(), "files": files})

    @classmethod
    def decode(cls, data: bytes) -> Seals:
        """Read seals.

        :raises ModelListError: these are none, or not canonical.
        """
        content = _load(data, _SEALS_FORMAT, {"model", "files"})
        files = content["files"]
        if not isinstance(files, dict):
            raise _malformed("its files are no object")
        read = cls(_bytes(content["model"], 32), {_name(name): _bytes(value, 48) for name, value in files.items()})
        if read.encode() != data:
            raise _malformed("it is not in canonical form")
        return read


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _load(data: bytes, form: str, fields: set[str]) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _malformed("it is no JSON") from error
    if not isinstance(content, dict) or content.get("format") != form:
        raise _malformed(f"it is no {form!r}")
    if content.get("version") != 1 or content.keys() != fields | {"format", "version"}:
        raise _malformed("it was written by another version of sealserve")
    return content


def _file(item: Any) -> SealedFile:
    if not isinstance(item, dict) or item.keys() != {"name", "size", "sha256"}:
        raise _malformed("an entry has not exactly a name, a size and a digest")
    size = item["size"]
    if type(size) is not int or not 0 <= size <= MAX_SIZE:
        raise _malformed("a size is no size")
    return SealedFile(_name(item["name"]), size, _bytes(item["sha256"], 32))


def _name(value: Any) -> str:
    if not isinstance(value, str) or any(part in {"", ".", ".."} for part in value.split("/")) or "\0" in value:
        raise _malformed("a name is no relative path")
    if value in RESERVED:
        raise _malformed(f"it names {value}")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise _malformed("a name is not UTF-8") from None
    if length > MAX_PATH:
        raise _malformed("a name is longer than any path in an encrypted file")
    return value


def _bytes(value: Any, length: int) -> bytes:
    if not isinstance(value, str) or len(value) != 2 * length or not _HEX.fullmatch(value):
        raise _malformed("a digest is not written in hexadecimal digits")
    return bytes.fromhex(value)


def _malformed(why: str) -> ModelListError:
    return ModelListError(
        f"the list of the sealed model cannot be used: {why}", hint="Seal the model again with this version."
    )
