"""Objects as YAML that people read: in the order in which they were written, with comments."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

_WIDTH = 100
_BLOCK = re.compile(r"\S[ -~\n]*\S\n")
"""Text of several lines that stands in a file as it is; any other is quoted."""

Object = dict[str, Any]
"""An object of the API. A key that is a :class:`Comment`, with any value, stands for a comment before the next key."""


class Comment(str):
    """A comment, as a key in a mapping or an entry of a list."""

    __slots__ = ()


def without_comments(value: Any) -> Any:
    """The same value as the API sees it."""
    if isinstance(value, Mapping):
        return {key: without_comments(entry) for key, entry in value.items() if not isinstance(key, Comment)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_comments(entry) for entry in value if not isinstance(entry, Comment)]
    return value


def to_yaml(documents: Sequence[Object], *, title: str) -> str:
    """The text of a file of ``documents``, which begins with ``title`` as a comment."""
    parts = ["\n".join(_mapping(document, 0)) for document in documents]
    return "\n".join(_comment(title, 0)) + "\n" + "\n---\n".join(parts) + "\n"


def _mapping(value: Mapping[str, Any], indent: int) -> Iterator[str]:
    pad = " " * indent
    for key, entry in value.items():
        if isinstance(key, Comment):
            yield from _comment(key, indent)
        elif isinstance(entry, str) and _BLOCK.fullmatch(entry):
            yield f"{pad}{_scalar(key)}: |"
            yield from (f"{pad}  {line}" if line else "" for line in entry.removesuffix("\n").split("\n"))
        elif isinstance(entry, Mapping) and entry:
            yield f"{pad}{_scalar(key)}:"
            yield from _mapping(entry, indent + 2)
        elif isinstance(entry, list) and entry:
            yield f"{pad}{_scalar(key)}:"
            yield from _list(entry, indent)
        else:
            yield f"{pad}{_scalar(key)}: {_scalar(entry)}"


def _list(value: Sequence[Any], indent: int) -> Iterator[str]:
    pad = " " * indent
    for entry in value:
        if isinstance(entry, Comment):
            yield from _comment(entry, indent)
        elif isinstance(entry, Mapping) and entry:
            comments = list(itertools.takewhile(lambda key: isinstance(key, Comment), entry))
            for comment in comments:
                yield from _comment(comment, indent)
            first, *others = _mapping({key: entry[key] for key in entry if key not in comments}, indent + 2)
            yield f"{pad}- {first.removeprefix(f'{pad}  ')}"
            yield from others
        else:
            yield f"{pad}- {_scalar(entry)}"


def _comment(text: str, indent: int) -> Iterator[str]:
    pad = " " * indent
    for line in textwrap.wrap(text, _WIDTH - indent - 2, break_on_hyphens=False, break_long_words=False):
        yield f"{pad}# {line}"


def _scalar(value: Any) -> str:
    style = '"' if isinstance(value, str) and not value.isprintable() else None  # with escapes, on one line
    text = yaml.safe_dump(value, width=1 << 30, allow_unicode=True, default_flow_style=True, default_style=style)
    return text.removesuffix("...\n").strip()
