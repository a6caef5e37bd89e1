"""What lint says about a manifest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sealserve.deploy.images.lint.document import Variant

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Rule:
    """One weakness that a manifest can have.

    :param name: stable, for scripts. :param severity: error: what the enclave promises is void; warning: it is weaker,
        or will fail; note: worth knowing.
    :param meaning: what it lets the host do, or what it costs. :param mend: what to write instead.
    """

    name: str
    severity: Severity
    meaning: str
    mend: str


@dataclass(frozen=True)
class Finding:
    """A weakness of one manifest.

    :param key: the dotted key it is about. :param line: its line. :param what: what stands there, in words.
    """

    rule: Rule
    key: str
    line: int
    what: str

    def as_dict(self) -> dict[str, Any]:
        """The finding as scripts read it."""
        return {
            "rule": self.rule.name,
            "severity": self.rule.severity,
            "key": self.key,
            "line": self.line,
            "what": self.what,
            "meaning": self.rule.meaning,
            "mend": self.rule.mend,
        }


@dataclass(frozen=True)
class Weakness:
    """A finding before its line is known.

    :param value: text that the line holds, where the key stands for several.
    """

    rule: Rule
    key: str
    what: str
    value: object = None


Weaknesses = Iterator[Weakness]

BAD_URI = Rule(
    "no-file-uri",
    "error",
    "Gramine refuses it: entries are URIs.",
    'Write "file:" before the path, and "/" at the end of a directory.',
)

WHOLE_TREES = frozenset(
    {"/", ".", "./", "/etc/", "/home/", "/lib/", "/opt/", "/root/", "/usr/", "/usr/bin/", "/usr/lib/", "/usr/local/"}
    | {"/var/"}
)
"""Directories that nobody means when they list them."""


def path_of(uri: object) -> str | None:
    """The path of a ``file:`` URI without ``//`` and ``.``, and with its ``/`` at the end; None for other values."""
    if not isinstance(uri, str) or not uri.startswith("file:"):
        return None
    path = uri.removeprefix("file:")
    absolute = path.startswith("/")
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part == ".." and absolute:
            pass  # above the root is the root
        elif part not in {"", "."}:
            parts.append(part)
    plain = ("/" if absolute else "") + "/".join(parts)
    return plain + "/" if path.endswith("/") and plain not in {"", "/"} else plain or "."


def is_whole_tree(path: str) -> bool:
    """Whether it is a directory that nobody means: one of :data:`WHOLE_TREES`, or what is above the current one."""
    return path in WHOLE_TREES or f"{path}/" in WHOLE_TREES or set(path.strip("/").split("/")) == {".."}


def covers(outer: str, inner: str) -> bool:
    """Whether the file or directory ``outer`` is ``inner``, or one that it lies in."""
    if set(outer.rstrip("/").split("/")) <= {".", ".."} and outer.strip("/"):
        return not inner.startswith("/")
    plain = outer.rstrip("/")
    return inner.rstrip("/") == plain or inner.startswith(f"{plain}/")


def host_paths(variant: Variant, inside: str) -> Iterator[str]:
    """Where on the host a file lies that the program knows as ``inside``: its mounts say, and the current directory."""
    absolute = inside if inside.startswith("/") else f"/{inside}"
    yield path_of(f"file:{absolute}") or absolute
    yield (path_of(f"file:{absolute.lstrip('/')}")) or absolute
    for mount in variant.entries("fs.mounts"):
        path, uri = (mount.get("path"), path_of(mount.get("uri"))) if isinstance(mount, dict) else (None, None)
        if isinstance(path, str) and uri is not None and covers(path, absolute):
            yield path_of(f"file:{uri.rstrip('/')}{absolute[len(path.rstrip('/')) :]}") or absolute


def uri_text(entry: object) -> str:
    """The URI of an entry of ``sgx.trusted_files``, which is text or a table."""
    uri = entry.get("uri") if isinstance(entry, dict) else entry
    return uri if isinstance(uri, str) else ""


def arguments(variant: Variant) -> list[str]:
    """The arguments that are fixed in the manifest."""
    return [argument for argument in variant.entries("loader.argv") if isinstance(argument, str)]


def environment(variant: Variant) -> dict[str, str]:
    """The variables that are fixed in the manifest."""
    found = {}
    for name, value in variant.table("loader.env").items():
        fixed = value.get("value") if isinstance(value, dict) else value
        if isinstance(fixed, str):
            found[name] = fixed
    return found


def program_argument(variant: Variant, name: str) -> str | None:
    """The value of ``--name=VALUE`` or ``--name VALUE`` among the arguments."""
    given = arguments(variant)
    for index, argument in enumerate(given):
        if found := re.fullmatch(rf"--?{re.escape(name)}=(.*)", argument, re.DOTALL):
            return found[1]
        if argument in {f"--{name}", f"-{name}"} and index + 1 < len(given):
            return given[index + 1]
    return None


def runs(variant: Variant, program: str) -> bool:
    """Whether the manifest starts this program, by the name of its file."""
    entrypoint = variant.get("libos.entrypoint")
    names = [entrypoint if isinstance(entrypoint, str) else "", *arguments(variant)[:1]]
    return any(name.removeprefix("file:").rpartition("/")[2] == program for name in names)
