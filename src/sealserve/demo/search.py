"""Looking for plaintext where none may be.

A *needle* is a piece of something secret: of the wrap key, the model, a picture. A clean result proves little by
itself, so every search is also run where the plaintext belongs, and has to find it there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

NEEDLE_SIZE = 24
_WINDOW = 1 << 20


@dataclass(frozen=True)
class Needle:
    """``data`` is looked for byte by byte at any offset; ``label`` says what it is a piece of."""

    label: str
    data: bytes


@dataclass
class Findings:
    """What a search looked at and what it found."""

    bytes_searched: int = 0
    places: int = 0
    found: dict[str, list[str]] = field(default_factory=dict)
    """Label of a needle → where it was found."""
    unreadable: list[str] = field(default_factory=list)
    once: bool = False
    """Whether one find of a label is enough: its other needles are then not looked for."""

    @property
    def clean(self) -> bool:
        return not self.found

    def note(self, label: str, place: str) -> None:
        places = self.found.setdefault(label, [])
        if place not in places:
            places.append(place)


def needles_of(label: str, data: bytes, *, count: int = 64, size: int = NEEDLE_SIZE) -> list[Needle]:
    """Cut up to ``count`` pieces evenly out of ``data``, leaving out pieces too regular to mean anything.

    A piece with fewer than six different byte values (a run of zeros, say) could stand anywhere by chance.
    """
    if len(data) <= size:
        return [Needle(label, data)] if data else []
    step = max((len(data) - size) // count, 1)
    pieces = (data[offset : offset + size] for offset in range(0, len(data) - size + 1, step))
    return [Needle(label, piece) for piece in dict.fromkeys(pieces) if len(set(piece)) >= 6][:count]


def search_bytes(data: bytes | bytearray, needles: Iterable[Needle], place: str, findings: Findings) -> None:
    """Look for every needle in ``data``."""
    findings.places += 1
    findings.bytes_searched += len(data)
    _search(data, needles, place, findings)


def _search(data: bytes | bytearray, needles: Iterable[Needle], place: str, findings: Findings) -> None:
    for needle in needles:
        if not (findings.once and needle.label in findings.found) and needle.data in data:
            findings.note(needle.label, place)


def search_tree(root: Path, needles: list[Needle], findings: Findings) -> None:
    """Look for every needle in every regular file below ``root``, names included; links are not followed."""
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory) / name
            if path.is_symlink() or not path.is_file():
                continue
            place = str(path.relative_to(root))
            findings.places += 1
            try:
                with path.open("rb") as file:
                    _search_windows(iter(lambda f=file: f.read(_WINDOW), b""), needles, place, findings)  # type: ignore[misc]
            except OSError:
                findings.unreadable.append(place)


def search_memory(pid: int, needles: list[Needle], findings: Findings) -> None:
    """Look for every needle in the readable memory of a process, where the system lets this user look."""
    place = f"memory of process {pid}"
    try:
        with _as_its_user(pid):
            maps = Path(f"/proc/{pid}/maps").read_text()
            memory = Path(f"/proc/{pid}/mem").open("rb", buffering=0)  # noqa: SIM115 - closed below
        with memory:
            findings.places += 1
            for line in maps.splitlines():
                extent, permissions, *_ = line.split(maxsplit=5)
                if permissions.startswith("r") and not line.endswith(("[vvar]", "[vsyscall]")):
                    start, end = (int(part, 16) for part in extent.split("-"))
                    _search_windows(_read_memory(memory.fileno(), start, end), needles, place, findings)
    except OSError:
        findings.unreadable.append(place)


@contextlib.contextmanager
def _as_its_user(pid: int) -> Iterator[None]:
    """Open files as the user of a process does, if root asks: a container's root may not look into other users'
    processes, such as nginx's workers, but each user into its own. It concerns the calling thread only: setfsuid(2).
    """
    if os.geteuid() != 0:
        yield
        return
    owner = Path(f"/proc/{pid}").stat()
    libc = ctypes.CDLL(None)
    libc.setfsgid(owner.st_gid)
    libc.setfsuid(owner.st_uid)
    try:
        yield
    finally:
        libc.setfsuid(0)
        libc.setfsgid(os.getegid())


def _read_memory(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        try:
            chunk = os.pread(descriptor, min(_WINDOW, end - start), start)
        except OSError:  # a mapping that went away or cannot be read (device memory)
            return
        if not chunk:
            return
        start += len(chunk)
        yield chunk


def _search_windows(windows: Iterator[bytes], needles: list[Needle], place: str, findings: Findings) -> None:
    """Search a stream piece by piece; a needle across two pieces is found too."""
    overlap = max((len(needle.data) for needle in needles), default=1) - 1
    tail = b""
    for window in windows:
        findings.bytes_searched += len(window)
        data = tail + window
        _search(data, needles, place, findings)
        tail = data[-overlap:] if overlap else b""
