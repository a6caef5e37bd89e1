"""A Gramine manifest as it lies in a file: its values, and in which line each of them stands.

Rendered manifests are TOML. Templates are TOML with Jinja in between, and nobody's template can be rendered here: it
asks for paths of the machine that it is rendered on. So expressions stay in the values as text
(``{{ gramine.libos }}``), loops are read as one turn, and each branch of each condition is read in its turn
(:attr:`Manifest.variants`).
"""

from __future__ import annotations

import contextlib
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
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
_FROM_ELSEWHERE = frozenset({"extends", "from", "import", "include"})
_MOST_WAYS = 200
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
    ways = _ways(text)
    if len(ways) > _MOST_WAYS:
        raise InputError(f"{name} has too many conditions", hint=_RENDER)
    if any(_word(tag) in _FROM_ELSEWHERE for tag, _ in _tags(text)):
        raise InputError(f"{name} takes in another template, which nobody sees here", hint=_RENDER)
    texts = dict.fromkeys(_without_jinja(text, way) for way in ways)
    if is_template and _is_toml(text):  # what looks like Jinja is in strings, and Gramine takes it as it is
        texts[text] = None
    variants = [_parse(one, name) for one in texts]
    lines = tuple(text.split("\n"))
    return Manifest(text, is_template, tuple(variants), _places(lines), lines)


def _is_toml(text: str) -> bool:
    with contextlib.suppress(ValueError, RecursionError, OverflowError):
        return bool(tomllib.loads(text))
    return False


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


def _ways(text: str) -> list[dict[int, int]]:
    """Ways through a template's conditions, so that every branch is on one of them.

    :returns: number of a condition, from the beginning → number of its branch; the first where it is not named.
    """
    ways: list[dict[int, int]] = [{}]
    last: dict[int, int] = {}
    for tag, around in _tags(text):
        if _word(tag) in {"elif", "else"} and around and around[-1].is_condition:
            ways.append({block.number: block.branch for block in around if block.is_condition})
            last[around[-1].number] = around[-1].branch
    return [*ways, last]


def _without_jinja(text: str, way: Mapping[int, int]) -> str:
    """TOML in the place of a template, with the same lines."""
    pieces: list[str] = []
    skipped = False
    quote = ""
    at = 0
    for tag, around in _tags(text):
        before = text[at : tag.start()]
        at = tag.end()
        pieces.append("\n" * before.count("\n") if skipped else before)
        quote = quote if skipped else _quote_after(quote, before)
        if tag[0].startswith("{{") and not skipped:
            expression = " ".join(tag[0].split()).replace('"', "'").replace("\\", "/")
            if quote == "'":
                expression = expression.replace("'", "`")
            pieces.append(expression if quote else f'"{expression}"')
        if not quote:
            pieces.append("\n" * tag[0].count("\n"))
        skipped = any(block.is_condition and block.branch != way.get(block.number, 0) for block in around)
    pieces.append(text[at:])
    return "".join(pieces)


@dataclass(frozen=True)
class _Block:
    """A condition or loop that is open. :param number: of the condition. :param branch: of it, the one read now."""

    is_condition: bool
    number: int
    branch: int = 0


def _tags(text: str) -> Iterator[tuple[re.Match[str], list[_Block]]]:
    """What of a text is Jinja, with the blocks around what follows it."""
    around: list[_Block] = []
    conditions = 0
    for tag in _JINJA.finditer(text):
        match _word(tag):
            case "if":
                around.append(_Block(True, conditions))
                conditions += 1
            case "for":
                around.append(_Block(False, 0))
            case "elif" | "else" if around:
                around[-1] = replace(around[-1], branch=around[-1].branch + 1)
            case "endif" | "endfor" if around:
                around.pop()
        yield tag, around


def _word(tag: re.Match[str]) -> str:
    found = _TAG.match(tag[0])
    return found[1] if found else ""


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
_RENDER = "Render it with `gramine-manifest`, and give the result."
