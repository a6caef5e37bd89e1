"""Which shared libraries an ELF file names: enough of the format for that, and no more.

Source: System V ABI, chapters "Object Files", "Program Header" and "Dynamic Section"; 64-bit little-endian files only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_IDENTITY = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_ENTRY = struct.Struct("<qQ")
_LOAD, _DYNAMIC = 1, 2
_NULL, _NEEDED, _STRING_TABLE, _STRING_SIZE, _RPATH, _RUNPATH = 0, 1, 5, 10, 15, 29
_LIMIT = 1 << 24  # bytes of any one table
_FARTHEST = 1 << 40


@dataclass(frozen=True)
class SharedLibraries:
    """What an ELF file says that the loader is to load.

    :param needed: file names such as ``libz.so.1``. :param search: directories to look in first; ``$ORIGIN`` may stand
        in them.
    """

    needed: tuple[str, ...]
    search: tuple[str, ...]


def read_shared_libraries(path: Path) -> SharedLibraries | None:
    """What ``path`` names; None if it is no such ELF file, or a broken one.

    :raises OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        except (struct.error, ValueError):
            return None


def _read(file: BinaryIO) -> SharedLibraries | None:
    header = file.read(_HEADER.size)
    if not header.startswith(_IDENTITY):
        return None
    fields = _HEADER.unpack(header)
    table_offset, entry_size, count = fields[5], fields[9], fields[10]
    if entry_size != _SEGMENT.size:
        return None
    segments = list(_SEGMENT.iter_unpack(_read_at(file, table_offset, entry_size * count)))
    dynamic = next((segment for segment in segments if segment[0] == _DYNAMIC), None)
    if dynamic is None:
        return SharedLibraries((), ())
    found: dict[int, list[int]] = {}
    whole = dynamic[5] - dynamic[5] % _ENTRY.size
    for tag, value in _ENTRY.iter_unpack(_read_at(file, dynamic[2], whole)):
        if tag == _NULL:
            break
        found.setdefault(tag, []).append(value)
    if _STRING_TABLE not in found or _STRING_SIZE not in found:
        return SharedLibraries((), ())
    address = found[_STRING_TABLE][0]
    loaded = [
        address - virtual + start
        for kind, _, start, virtual, _, size, *_ in segments
        if kind == _LOAD and virtual <= address < virtual + size
    ]
    if not loaded:
        return None
    strings = _read_at(file, loaded[0], found[_STRING_SIZE][0])
    search = found.get(_RUNPATH) or found.get(_RPATH) or []
    return SharedLibraries(
        needed=tuple(_string(strings, index) for index in found.get(_NEEDED, [])),
        search=tuple(part for index in search for part in _string(strings, index).split(":") if part),
    )


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    if size > _LIMIT or offset > _FARTHEST:
        raise ValueError("too large a table")
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise ValueError("the file ends early")
    return data


def _string(strings: bytes, index: int) -> str:
    end = strings.index(b"\0", index)
    return strings[index:end].decode(errors="surrogateescape")
