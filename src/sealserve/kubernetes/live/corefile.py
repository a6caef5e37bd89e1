"""Reading a Corefile, the configuration of CoreDNS, without losing where everything stands in it.

The format is that of Caddyfiles of version 1, as CoreDNS' own reader takes them (``github.com/coredns/caddy``,
``caddyfile/lexer.go`` and ``parse.go``), quirks included. What it says of plugins is not looked at here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sealserve.errors import InputError

_SEPARATORS = re.compile(r"[\x1c-\x1f]")  # white space for Python, and not for CoreDNS
_PORT = re.compile(r"(.*):(\d*)")
DNS_PORT = 53


class CorefileError(InputError):
    """A Corefile cannot be read, or not be changed without a risk. Nothing was changed."""


@dataclass(frozen=True)
class Token:
    """A word. :ivar start: and :ivar end: its place in the text, quotes included. :ivar line: counted from 1."""

    text: str
    start: int
    end: int
    line: int

    @property
    def last_line(self) -> int:
        return self.line + self.text.count("\n")


@dataclass(frozen=True)
class Directive:
    """A plugin's part of a block, or an ``import``. :ivar tokens: its name first, braces included."""

    tokens: tuple[Token, ...]

    @property
    def name(self) -> str:
        return self.tokens[0].text

    @property
    def opening(self) -> Token | None:
        """The brace that opens its own block."""
        return next((token for token in self.tokens if token.text == "{" and token.line == self.tokens[0].line), None)

    @property
    def arguments(self) -> list[str]:
        """What stands after its name on the same line, without a brace."""
        words = itertools.takewhile(lambda token: token.text != "{", self.tokens[1:])
        return [token.text for token in words if token.line == self.tokens[0].last_line]

    def lines(self) -> list[list[Token]]:
        """What stands in its own block, line by line."""
        inner = self.tokens[self.tokens.index(self.opening) + 1 : -1] if self.opening is not None else ()
        found: dict[int, list[Token]] = {}
        for token in inner:
            found.setdefault(token.line, []).append(token)
        return list(found.values())


@dataclass(frozen=True)
class Block:
    """A server block, or a snippet. :ivar keys: zones with ports, or the name of a snippet in parentheses.

    :ivar opening: its brace; None for a text that stands inside of a block by ``import``.
    """

    keys: tuple[str, ...]
    directives: tuple[Directive, ...]
    opening: Token | None = None

    def named(self, name: str) -> list[Directive]:
        return [directive for directive in self.directives if directive.name == name]

    def zones(self) -> Iterator[tuple[str, int]]:
        """Zones that it answers for over plain DNS, without a dot at the end (the root: empty), and ports."""
        for key in self.keys:
            transport, _, rest = key.rpartition("://")
            if transport not in ("", "dns") or "/" in rest:
                continue
            found = _PORT.fullmatch(rest)
            zone, port = (found[1], int(found[2] or DNS_PORT)) if found else (rest, DNS_PORT)
            yield zone.rstrip(".").lower(), port


@dataclass(frozen=True)
class Corefile:
    """A whole file. :ivar comments: their places, each from its ``#`` to the end of its line."""

    text: str
    blocks: tuple[Block, ...]
    snippets: dict[str, Block] = field(default_factory=dict)
    comments: tuple[tuple[int, int], ...] = ()

    def block_of(self, name: str) -> Block:
        """The server block that answers for a DNS name: that of the longest zone.

        :raises CorefileError: none does, or several do.
        """
        fitting = [
            (len(zone), port, block)
            for block in self.blocks
            for zone, port in block.zones()
            if not zone or name == zone or name.endswith(f".{zone}")
        ]
        longest = max((length for length, _, _ in fitting), default=0)
        best = [(port, block) for length, port, block in fitting if length == longest]
        found = {id(block): block for port, block in best if port == DNS_PORT or len(best) == 1}
        if len(found) != 1:
            count = "no server block" if not found else "more than one server block"
            raise CorefileError(
                f"{count} of the Corefile answers for {name} on port {DNS_PORT}",
                hint="Put the entry where it belongs by hand.",
            )
        return next(iter(found.values()))


def read_corefile(text: str) -> Corefile:
    """Read a Corefile. :raises CorefileError: CoreDNS would not, or it has no braces."""
    comments: list[tuple[int, int]] = []
    reader = _Reader(list(_tokens(text, comments)))
    blocks, snippets = [], {}
    while (keys := reader.keys()) is not None:
        block = reader.block(keys)
        if len(keys) == 1 and keys[0].startswith("(") and keys[0].endswith(")"):
            snippets[keys[0][1:-1]] = block
        else:
            blocks.append(block)
    return Corefile(text, tuple(blocks), snippets, tuple(comments))


def read_part(text: str) -> Corefile:
    """Read a text that stands inside of a server block by ``import``: a Corefile of one block without a brace."""
    comments: list[tuple[int, int]] = []
    reader = _Reader(list(_tokens(text, comments)))
    return Corefile(text, (Block((), tuple(reader.directives(closed=False))),), {}, tuple(comments))


def _tokens(text: str, comments: list[tuple[int, int]]) -> Iterator[Token]:
    at, line = (1, 1) if text.startswith("\ufeff") else (0, 1)
    word, start, comment = "", 0, -1
    while at < len(text):
        character = text[at]
        if character.isspace() and not _SEPARATORS.match(character):
            if character == "\n" and comment >= 0:
                comments.append((comment, at))
            if word and character != "\r":
                # A comment that begins within a word ends with that word, if white space follows before the line does.
                yield Token(word, start, at if comment < 0 else comment, line)
                word, comment = "", -1
            if character == "\n":
                line, comment = line + 1, -1
        elif comment >= 0:
            pass
        elif character == "#":
            comment = at
        elif not word and character == '"':
            token = _quoted(text, at, line)
            yield token
            at, line = token.end, token.last_line
            continue
        else:
            start = start if word else at
            word += character
        at += 1
    if comment >= 0:
        comments.append((comment, at))
    if word:
        yield Token(word, start, at if comment < 0 else comment, line)


def _quoted(text: str, start: int, line: int) -> Token:
    found = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL).match(text, start)
    if found is None:
        raise CorefileError(f"line {line} of the Corefile has a quotation mark that nothing closes")
    return Token(found[1].replace('\\"', '"'), start, found.end(), line)


class _Reader:
    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def _next(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _begins_line(self) -> bool:
        return self._at == 0 or self._tokens[self._at - 1].last_line < self._tokens[self._at].line

    def keys(self) -> tuple[str, ...] | None:
        """Keys of the next block; None at the end. What is imported between blocks is not seen."""
        keys: list[str] = []
        another = False
        while (token := self._next()) is not None and token.text != "{":
            if keys and not another and self._begins_line():
                break
            if token.text == "import" and self._begins_line():
                self._at += 1
                if self._next() is None or self._begins_line():
                    raise CorefileError(f"line {token.line} of the Corefile imports nothing")
                self._at += 1
                continue
            another = token.text.endswith(",")
            if word := token.text.removesuffix(","):
                keys.append(word)
            self._at += 1
        if token is None and not keys:
            return None
        if token is None or token.text != "{" or not keys:
            where = "its end" if token is None else f"line {token.line}"
            raise CorefileError(f"the Corefile has a server block without zones or without braces at {where}")
        return tuple(keys)

    def block(self, keys: tuple[str, ...]) -> Block:
        opening = self._tokens[self._at]
        self._at += 1
        return Block(keys, tuple(self.directives(closed=True)), opening)

    def directives(self, *, closed: bool) -> Iterator[Directive]:
        """:param closed: whether a brace ends them, or the end of the text."""
        while (token := self._next()) is not None:
            if token.text == "}":
                if not closed:
                    raise CorefileError(f"line {token.line} has a brace that closes nothing")
                self._at += 1
                return
            yield self._directive()
        if closed:
            raise CorefileError("the Corefile has a brace that nothing closes")

    def _directive(self) -> Directive:
        begin, depth = self._at, 0
        if self._tokens[begin].text == "{":
            raise CorefileError(f"line {self._tokens[begin].line} of the Corefile begins with a brace")
        self._at += 1
        while (token := self._next()) is not None:
            if token.text == "{":
                depth += 1
            elif self._begins_line() and depth == 0:
                break
            elif token.text == "}":
                if depth == 0:
                    raise CorefileError(f"line {token.line} of the Corefile has a brace that closes nothing")
                depth -= 1
            self._at += 1
        if depth:
            line = self._tokens[begin].line
            raise CorefileError(f"line {line} of the Corefile opens a brace that nothing closes")
        found = Directive(tuple(self._tokens[begin : self._at]))
        if found.name == "import" and len(found.tokens) != 2:
            raise CorefileError(f"line {found.tokens[0].line} of the Corefile has an import without its one argument")
        return found
