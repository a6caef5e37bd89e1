"""Entries of CoreDNS' plugin ``hosts`` that are ours, in a Corefile that is not.

Each stands between two comments, by which it is found again, whatever was changed around it meanwhile::

    # begin sealserve hosts
    hosts {
        # begin sealserve serving/photos 6f1d0c52
        192.0.2.10 broker.example
        # end sealserve serving/photos
        fallthrough
    }
    # end sealserve hosts

The number is a digest of what stands between, which tells whether it was changed by hand. A block may have ``hosts``
once only (``plugin/hosts/setup.go``), and entries after ``fallthrough`` are an error, so that ours come first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from sealserve.kubernetes.live.corefile import Block, Corefile, CorefileError, Directive, read_corefile, read_part

_MARK = re.compile(r"# (begin|end) sealserve (\S+)(?: ([0-9a-f]{8}))?\s*")
_WRAP = "hosts"
_STEP = "    "


@dataclass(frozen=True)
class HostsEntry:
    """Names that stand for addresses. :ivar owner: the deployment's namespace and name, with a slash between."""

    owner: str
    addresses: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        return [f"{address} {' '.join(self.names)}" for address in self.addresses]


@dataclass(frozen=True)
class Edit:
    """What a text becomes. :ivar by_hand: the lines of ours that somebody had changed, and that are gone now."""

    text: str
    by_hand: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Segment:
    """Lines of ours. :ivar start: and :ivar end: where they stand, both comments included."""

    owner: str
    start: int
    end: int
    lines: tuple[str, ...]
    digest: str | None

    @property
    def changed(self) -> tuple[str, ...]:
        return self.lines if self.digest is not None and self.digest != _digest(self.lines) else ()


def read(text: str, *, part: bool) -> Corefile:
    """:param part: the text stands inside of a server block by ``import``."""
    return read_part(text) if part else read_corefile(text)


def with_entry(text: str, entry: HostsEntry, *, part: bool = False) -> Edit:
    """The text with the entry in it: once, however often it is put in.

    :raises CorefileError: the text cannot be read, or says already that a name stands for something else.
    """
    corefile = read(text, part=part)
    block = block_for(corefile, entry.names)
    own = _segments(corefile).get(entry.owner)
    plugin = the_hosts(block)
    if own is not None and plugin is not None and plugin.tokens[0].start < own.start < plugin.tokens[-1].start:
        indent = re.match(r"[ \t]*", text[own.start :])
        same = own.lines == tuple(entry.lines)
        ours = _segment(entry, indent[0] if indent else "")
        edit = Edit(text) if same else Edit(text[: own.start] + ours + text[own.end :], own.changed)
        return _checked(edit, entry, part=part)
    removed = without_entry(text, entry.owner, part=part) or Edit(text)
    corefile = read(removed.text, part=part)
    block = block_for(corefile, entry.names)
    plugin = the_hosts(block)
    if plugin is None:
        at, indent_of = _beginning(corefile.text, block)
        added = _wrapped(entry, indent_of)
    else:
        at = _inside(corefile.text, plugin, entry)
        inner = plugin.lines()
        added = _segment(entry, _indent(corefile.text, inner[0][0].start) if inner else 2 * _STEP)
    after = corefile.text[:at] + added + corefile.text[at:]
    return _checked(Edit(after, removed.by_hand), entry, part=part)


def without_entry(text: str, owner: str, *, part: bool = False) -> Edit | None:
    """The text without the entry of ``owner``, and otherwise as it is; None if it is not there.

    :raises CorefileError: the text cannot be read, or one of the two comments is missing.
    """
    corefile = read(text, part=part)
    own = _segments(corefile).get(owner)
    if own is None:
        return None
    after = text[: own.start] + text[own.end :]
    corefile = read(after, part=part)
    segments = _segments(corefile)
    wrap = segments.pop(_WRAP, None)
    if wrap is not None and not any(wrap.start < other.start < wrap.end for other in segments.values()):
        if wrap.lines == ("hosts {", "fallthrough", "}"):
            after = after[: wrap.start] + after[wrap.end :]
        else:  # others have put something of theirs into it
            for start, end in reversed(_mark_lines(corefile, _WRAP)):
                after = after[:start] + after[end:]
    read(after, part=part)
    return Edit(after, own.changed)


def owners(text: str, *, part: bool = False) -> list[str]:
    """Whose entries there are."""
    return [owner for owner in _segments(read(text, part=part)) if owner != _WRAP]


def block_for(corefile: Corefile, names: Sequence[str]) -> Block:
    """The server block that answers for these names. :raises CorefileError: it is not one."""
    if corefile.blocks and corefile.blocks[0].opening is None:
        return corefile.blocks[0]
    blocks = {id(block): block for block in map(corefile.block_of, names)}
    if len(blocks) != 1:
        raise CorefileError(
            f"different server blocks of the Corefile answer for {' and '.join(names)}",
            hint="Give one of them alone (--name), and the others another name of the deployment.",
        )
    return next(iter(blocks.values()))


def the_hosts(block: Block) -> Directive | None:
    """The plugin ``hosts`` of a block, if it has it. :raises CorefileError: it has two, which CoreDNS refuses."""
    found = block.named("hosts")
    if len(found) > 1:
        raise CorefileError(f"line {found[1].tokens[0].line} of the Corefile has hosts a second time in its block")
    return found[0] if found else None


def _inside(text: str, plugin: Directive, entry: HostsEntry) -> int:
    """Where in a ``hosts`` that is there already entries are put."""
    line = plugin.tokens[0].line
    zones = [zone.rstrip(".").lower() for zone in plugin.arguments[1:]]
    for name in entry.names:
        if zones and not any(not zone or name == zone or name.endswith(f".{zone}") for zone in zones):
            raise CorefileError(f"hosts in line {line} of the Corefile is for {', '.join(zones)}, and not for {name}")
    if plugin.opening is None:
        raise CorefileError(
            f"hosts in line {line} of the Corefile has no braces, and thus no place for an entry",
            hint="Give it braces with `fallthrough` in them, on lines of their own.",
        )
    after = plugin.tokens[plugin.tokens.index(plugin.opening) + 1]
    if after.line == plugin.opening.line:
        raise CorefileError(
            f"line {line} of the Corefile goes on after the brace of hosts",
            hint="Put what follows it on a line of its own.",
        )
    return text.index("\n", plugin.opening.end) + 1


def _beginning(text: str, block: Block) -> tuple[int, str]:
    """Where a block begins, and how what is in it is indented."""
    first = block.directives[0].tokens[0] if block.directives else None
    indent = _STEP if first is None else _indent(text, first.start)
    if block.opening is None:
        return 0, ""
    end = text.find("\n", block.opening.end)
    if end < 0 or (first is not None and first.line == block.opening.line) or "}" in text[block.opening.end : end]:
        raise CorefileError(
            f"line {block.opening.line} of the Corefile goes on after the brace of its server block",
            hint="Put what follows it on a line of its own.",
        )
    return end + 1, indent


def _indent(text: str, start: int) -> str:
    line = text[text.rfind("\n", 0, start) + 1 : start]
    return line if not line.strip(" \t") else _STEP


def _wrapped(entry: HostsEntry, indent: str) -> str:
    inner = _segment(entry, indent + _STEP)
    return (
        f"{indent}# begin sealserve {_WRAP}\n{indent}hosts {{\n{inner}"
        f"{indent}{_STEP}fallthrough\n{indent}}}\n{indent}# end sealserve {_WRAP}\n"
    )


def _segment(entry: HostsEntry, indent: str) -> str:
    lines = [
        f"# begin sealserve {entry.owner} {_digest(entry.lines)}",
        *entry.lines,
        f"# end sealserve {entry.owner}",
    ]
    return "".join(f"{indent}{line}\n" for line in lines)


def _digest(lines: Sequence[str]) -> str:
    return sha256("\n".join(lines).encode()).hexdigest()[:8]


def _marks(corefile: Corefile) -> list[tuple[int, int, re.Match[str]]]:
    """Our comments: from the beginning of the line to that of the next one, and what each says."""
    found = []
    for start, end in corefile.comments:
        line = corefile.text.rfind("\n", 0, start) + 1
        mark = _MARK.fullmatch(corefile.text[start:end])
        if mark is not None and not corefile.text[line:start].strip(" \t\ufeff"):
            found.append((line, min(end + 1, len(corefile.text)), mark))
    return found


def _mark_lines(corefile: Corefile, owner: str) -> list[tuple[int, int]]:
    return [(start, end) for start, end, mark in _marks(corefile) if mark[2] == owner]


def _segments(corefile: Corefile) -> dict[str, _Segment]:
    begun: dict[str, tuple[int, int, str | None]] = {}
    segments: dict[str, _Segment] = {}
    for start, end, mark in _marks(corefile):
        which, owner = mark[1], mark[2]
        if (which == "begin") == (owner in begun) or owner in segments:
            raise _broken(corefile.text, start, owner)
        if which == "begin":
            begun[owner] = (start, end, mark[3])
            continue
        first, inner, digest = begun.pop(owner)
        lines = tuple(filter(None, (line.strip() for line in corefile.text[inner:start].split("\n"))))
        segments[owner] = _Segment(owner, first, end, lines, digest)
    for owner, (start, _, _) in begun.items():
        raise _broken(corefile.text, start, owner)
    return segments


def _broken(text: str, start: int, owner: str) -> CorefileError:
    line = text.count("\n", 0, start) + 1
    return CorefileError(
        f"the comments around the entry of {owner} do not belong together (line {line})",
        hint=f"Mend it by hand: one `# begin sealserve {owner}`, and after it one `# end sealserve {owner}`.",
    )


def _checked(edit: Edit, entry: HostsEntry, *, part: bool) -> Edit:
    """The same, if CoreDNS will find in it what is meant."""
    corefile = read(edit.text, part=part)
    plugin = the_hosts(block_for(corefile, entry.names))
    given: dict[str, set[str]] = {}
    for address, *names in plugin.lines() if plugin is not None else ():
        for word in names:
            given.setdefault(word.text.lower().rstrip("."), set()).add(address.text)
    for name in entry.names:
        here = given.get(name, set())
        if others := here - set(entry.addresses):
            raise CorefileError(
                f"hosts says already that {name} is {' and '.join(sorted(others))}",
                hint="Whoever asks would get either. Take that entry out first, or give the broker another name.",
            )
        if not set(entry.addresses) <= here:
            raise CorefileError(f"the entry for {name} cannot be put into this Corefile so that CoreDNS reads it")
    return edit
