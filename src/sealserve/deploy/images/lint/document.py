"""A Gramine manifest as it lies in a file: its values, and in which line each of them stands.

Rendered manifests are TOML. Templates are TOML with Jinja in between, and nobody's template can be rendered here: it
asks for paths of the machine that it is rendered on. So expressions stay in the values as text
(``{{ gramine.libos }}``), loops are read as one turn, and of conditions either branch is read in its turn
(:attr:`Manifest.variants`).
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sealserve.errors import InputError
from sealserve.files import read_file

_FAR = 100_000  # lines of one list
_SIZE_LIMIT = 64 << 20  # a signed manifest lists every trusted file
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_TAG = re.compile(r"\{%[-+]?\s*(\w+)")
_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*'))*)\s*"""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*'""")
_QUOTED = re.compile(r"""'[^']*'|"(?:[^"\\]|\\.)*"|#.*""")


@dataclass(frozen=True)
class Variant:
    """The values of a manifest, with one way through the conditions of its template."""

    values: Mapping[str, Any]

    def get(self, key: str) -> Any:
        """What stands under a dotted key; None if nothing does."""
        found: Any = self.values
        for part in key.split("."):
            if not isinstance(found, Mapping):
                return None
            found = found.get(part)
        return found

    def table(self, key: str) -> Mapping[str, Any]:
        """A table, which is empty if there is none."""
        found = self.get(key)
        return found if isinstance(found, Mapping) else {}

    def entries(self, key: str) -> list[Any]:
        """A list, which is empty if there is none. Old manifests have tables of named entries in their places."""
        found = self.get(key)
        if isinstance(found, Mapping):
            return list(found.values())
        return found if isinstance(found, list) else []

    def settings(self) -> Iterator[tuple[str, Any]]:
        """Every dotted key that has a value, with the value; lists and their tables count as values."""
        yield from _keys(self.values, "")


@dataclass(frozen=True)
class Manifest:
    """A manifest.

    :param text: as it lies in the file. :param is_template: whether there is Jinja in it.
    """

    text: str
    is_template: bool
    variants: tuple[Variant, ...]
    _places: Mapping[str, list[int]] = field(repr=False)
    _lines: tuple[str, ...] = field(repr=False)

    def line(self, key: str, value: object = None) -> int:
        """In which line a dotted key stands, or what it belongs to; 1 if neither is there.

        :param value: text in the key's value, such as an entry of a list: the line of that.
        """
        parts = key.split(".")
        prefixes = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
        known = [self._places[prefix] for prefix in prefixes if prefix in self._places]
        places = known[0] if known else [1]
        if isinstance(value, str) and value:
            last = min(len(self._lines), places[0] + _FAR)
            for number in itertools.chain(places, range(places[0], last + 1)):
                if value in self._lines[number - 1]:
                    return number
        return places[0]


def is_open(value: object) -> bool:
    """Whether a value is a template's expression, which nobody knows here."""
    return isinstance(value, str) and "{{" in value


def read_manifest(path: Path) -> Manifest:
    """Read a manifest, signed manifest or template.

    :raises InputError: it cannot be read, or is none of these.
    """
    return parse_manifest(read_file(path, limit=_SIZE_LIMIT), name=str(path))


def parse_manifest(data: bytes, *, name: str) -> Manifest:
    """Like :func:`read_manifest`, for what was read before.

    :param name: in errors.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InputError(f"{name} is no Gramine manifest: it is not UTF-8 text", hint=_HINT) from None
    text = text.replace("\r\n", "\n")
    is_template = _JINJA.search(text) is not None
    if not is_template:
        variants = [_parse(text, name)]
    else:
        plain = [_without_jinja(text, last_branch=last) for last in (False, True)]
        variants = [_parse(branch, name) for branch in dict.fromkeys(plain)]
    lines = tuple(text.split("\n"))
    return Manifest(text, is_template, tuple(variants), _places(lines), lines)


def _parse(text: str, name: str) -> Variant:
    try:
        return Variant(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name} is no Gramine manifest: {error}", hint=_HINT) from None
    except (RecursionError, ValueError, OverflowError):  # a date, or a number, that Python has not
        raise InputError(f"{name} is no Gramine manifest that can be read", hint=_HINT) from None


def _keys(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _without_jinja(text: str, *, last_branch: bool) -> str:
    """TOML in the place of a template, with the same lines."""
    pieces: list[str] = []
    skipping: list[bool] = []  # for each condition around
    quote = ""
    at = 0
    for found in _JINJA.finditer(text):
        before, tag = text[at : found.start()], found[0]
        at = found.end()
        skipped = any(skipping)
        pieces.append("\n" * before.count("\n") if skipped else before)
        quote = quote if skipped else _quote_after(quote, before)
        if tag.startswith("{{") and not skipped:
            expression = " ".join(tag.split()).replace('"', "'").replace("\\", "/")
            if quote == "'":
                expression = expression.replace("'", "`")
            pieces.append(expression if quote else f'"{expression}"')
        elif tag.startswith("{%") and (word := _TAG.match(tag)):
            if word[1] == "if":
                skipping.append(False)
            elif word[1] in {"else", "elif"} and skipping:
                skipping[-1] = not last_branch
                if last_branch:
                    _drop_branch(pieces)
            elif word[1] == "endif" and skipping:
                skipping.pop()
                _forget_branch(pieces)
        if not quote:
            pieces.append("\n" * tag.count("\n"))
        if tag.startswith("{%") and word is not None and word[1] == "if":
            pieces.append(_BRANCH)
    pieces.append(text[at:])
    return "".join(pieces).replace(_BRANCH, "")


_BRANCH = "\0branch\0"  # NUL is in no TOML


def _last_branch(pieces: list[str]) -> int:
    """Where the last condition that is open began."""
    return max(index for index, piece in enumerate(pieces) if piece == _BRANCH)


def _drop_branch(pieces: list[str]) -> None:
    """Keep nothing but the line ends of what came since the last ``if``."""
    start = _last_branch(pieces)
    dropped = "".join(pieces[start + 1 :])
    pieces[start + 1 :] = ["\n" * dropped.count("\n")]


def _forget_branch(pieces: list[str]) -> None:
    pieces[_last_branch(pieces)] = ""


def _quote_after(quote: str, text: str) -> str:
    """Which quotation mark is open after ``text``; strings of several lines are not looked for."""
    escaped = comment = False
    for character in text:
        if character == "\n":
            quote, comment, escaped = "", False, False
        elif comment or escaped:
            escaped = False
        elif quote:
            escaped = character == "\\" and quote == '"'
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "#":
            comment = True
    return quote


def _places(lines: tuple[str, ...]) -> dict[str, list[int]]:
    """In which lines dotted keys stand, and what they belong to. Approximate around strings of several lines."""
    places: dict[str, list[int]] = {}
    table = ""
    depth = 0
    for number, line in enumerate(lines, start=1):
        plain = _QUOTED.sub("", _JINJA.sub("", line))
        if depth == 0:
            key = ""
            header = line.lstrip().startswith("[")
            if header:
                found = _KEY.match(line.lstrip().lstrip("["))
                table = key = _dotted(found[1]) if found else ""
            elif (found := _KEY.match(line)) and line[found.end() :].startswith("="):
                key = f"{table}.{_dotted(found[1])}" if table else _dotted(found[1])
            for end in [at for at, character in enumerate(key) if character == "."]:
                places.setdefault(key[:end], [number])
            if key:
                places.setdefault(key, []).append(number)
            if header:
                continue
        depth = max(0, depth + sum(plain.count(mark) for mark in "[{") - sum(plain.count(mark) for mark in "]}"))
    return places


def _dotted(key: str) -> str:
    return ".".join(part.strip("\"'") for part in _PART.findall(key))


_HINT = "Give a manifest (TOML), a signed manifest (.manifest.sgx) or a manifest template with Jinja."
