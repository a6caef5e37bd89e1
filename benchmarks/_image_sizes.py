"""Sizes of images by arithmetic: what the distribution's and Python's own lists say is installed."""

from __future__ import annotations

import lzma
import re
import sys
import tempfile
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks._image_packages import lay_out, prune

ARCHIVE = "http://archive.ubuntu.com/ubuntu/dists"


@dataclass
class Distribution:
    """The packages of one Ubuntu release, as its index lists them: name → fields."""

    packages: dict[str, dict[str, str]] = field(default_factory=dict)
    provided: dict[str, str] = field(default_factory=dict)

    @classmethod
    def fetch(cls, release: str) -> Distribution:
        """Read the index from the archive (two compressed files, about 12 MB)."""
        found = cls()
        for component in ("main", "universe"):
            url = f"{ARCHIVE}/{release}/{component}/binary-amd64/Packages.xz"
            with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - a constant
                text = lzma.decompress(answer.read()).decode()
            for stanza in text.split("\n\n"):
                fields = dict(re.findall(r"^([A-Z][A-Za-z-]+): (.*)$", stanza, re.MULTILINE))
                if "Package" in fields:
                    found.packages.setdefault(fields["Package"], fields)
        for name, fields in found.packages.items():
            for provided in _names(fields.get("Provides", "")):
                found.provided.setdefault(provided[0], name)
        return found

    def base(self) -> set[str]:
        """What a container image of the release holds: what is essential or required, and apt."""
        return self.closure(
            [
                "apt",
                *(n for n, f in self.packages.items() if f.get("Essential") == "yes" or f["Priority"] == "required"),
            ]
        )

    def closure(self, names: Iterable[str], *, recommends: bool = False) -> set[str]:
        """The packages that installing ``names`` brings; of alternatives the first that exists."""
        waiting, found = list(names), set[str]()
        while waiting:
            name = waiting.pop()
            name = name if name in self.packages else self.provided.get(name, "")
            if not name or name in found:
                continue
            found.add(name)
            fields = self.packages[name]
            wanted = [fields.get("Depends", ""), fields.get("Pre-Depends", "")]
            wanted += [fields.get("Recommends", "")] if recommends else []
            for alternatives in (entry for text in wanted for entry in _names(text)):
                known = [n for n in alternatives if n in self.packages or n in self.provided]
                if known and not found & set(known):
                    waiting.append(known[0])
        return found

    def size(self, names: Iterable[str]) -> int:
        """Bytes on disk."""
        return sum(int(self.packages[name].get("Installed-Size", "0")) for name in names) << 10


def _names(text: str) -> list[list[str]]:
    return [
        [re.split(r"[ (:\[]", one.strip())[0] for one in entry.split("|")] for entry in text.split(",") if entry.strip()
    ]


def packages(engine: str) -> tuple[int, list[str]]:
    """Bytes of the Python packages in a replica's image, bytecode and all; and which are not installed here."""
    with tempfile.TemporaryDirectory() as name:
        missing = lay_out(engine, Path(name))
        prune(sys.executable, Path(name))
        return sum(path.stat().st_size for path in Path(name).rglob("*") if path.is_file()), missing
