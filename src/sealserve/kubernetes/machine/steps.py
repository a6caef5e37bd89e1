"""The kinds of steps: each says what it will do, does it, and takes it back.

What was there before stays, or comes back. Every step can be interrupted anywhere, and run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sealserve.errors import MachineError
from sealserve.files import explain_os_error, write_atomically
from sealserve.kubernetes.machine.host import Host
from sealserve.kubernetes.machine.journal import Record

_APT = ("apt-get", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold")
# What apt-get -s says. An older version stands in brackets before the new one: that package was there before.
_NEW = re.compile(r"^Inst (\S+) \(", re.MULTILINE)
_REMOVED = re.compile(r"^(?:Remv|Purg) (\S+)", re.MULTILINE)


class Step(Protocol):
    """A step. :ivar name: what the journal calls it; two steps have two names. :ivar title: for people."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    def shown(self) -> list[str]:
        """Lines that say exactly what will be done."""
        ...

    def is_done(self, host: Host, record: Record) -> bool:
        """Whether what was done is still so."""
        ...

    def apply(self, host: Host, record: Record) -> None: ...

    def undo(self, host: Host, record: Record) -> str | None:
        """Take it back. :returns: what was left as it is, and why."""
        ...


@dataclass(frozen=True)
class WriteFile:
    """A file of ours. :param content: its bytes, or what makes them when the file is written.

    :param source: how people are told of content that is made. :param owner: user and group, if not root's.
    """

    name: str
    title: str
    path: str
    content: bytes | Callable[[Host], bytes]
    source: str = ""
    mode: int = 0o644
    owner: tuple[int, int] | None = None

    def shown(self) -> list[str]:
        if isinstance(self.content, bytes):
            return [f"write {self.path}:", *(f"  | {line}" for line in self.content.decode().splitlines())]
        return [f"write {self.path}: {self.source}"]

    def is_done(self, host: Host, record: Record) -> bool:
        # One that was changed since has somebody else's words in it, such as the ways to more clusters: it stays.
        with _acting_as(self.owner):
            return record.done and host.path(self.path).exists()

    def apply(self, host: Host, record: Record) -> None:
        target = host.path(self.path)
        content = self.content if isinstance(self.content, bytes) else self.content(host)
        if record.get("wrote") is None:
            before = None
            with _acting_as(self.owner):
                made = [str(path) for path in target.parents if not path.exists()]
                if target.exists():
                    before = [b64encode(target.read_bytes()).decode(), target.stat().st_mode & 0o7777]
            record.save(made=made, before=before)
        record.save(wrote=hashlib.sha256(content).hexdigest())
        with _acting_as(self.owner):
            for directory in reversed(record.get("made")):
                try:
                    Path(directory).mkdir(mode=0o755, exist_ok=True)
                except OSError as error:
                    raise explain_os_error(error, directory, "create") from error
            write_atomically(target, content, mode=self.mode)

    def undo(self, host: Host, record: Record) -> str | None:
        with _acting_as(self.owner):
            return self._undo(host, record)

    def _undo(self, host: Host, record: Record) -> str | None:
        target, before = host.path(self.path), record.get("before")
        if record.get("wrote") is None:
            return None
        now = _sha256(target)
        restored = None if before is None else hashlib.sha256(b64decode(before[0])).hexdigest()
        if now not in {None, record.get("wrote"), restored}:
            return f"{self.path} was changed since: it stays"
        if before is not None:
            write_atomically(target, b64decode(before[0]), mode=before[1])
        else:
            target.unlink(missing_ok=True)
        for directory in record.get("made"):
            with contextlib.suppress(OSError):  # not empty: others use it
                Path(directory).rmdir()
        return None


@dataclass(frozen=True)
class InstallPackages:
    """Packages of Debian's or Ubuntu's kind, from the repositories that the machine has by then."""

    name: str
    title: str
    packages: tuple[str, ...]

    def shown(self) -> list[str]:
        return ["apt-get update", shlex.join([*_APT, "install", *self.packages])]

    def is_done(self, host: Host, record: Record) -> bool:  # noqa: ARG002 - as all steps
        return set(self.packages) <= installed(host)

    def apply(self, host: Host, record: Record) -> None:
        host.do("apt-get", "update")
        said = host.read("apt-get", "-s", "--no-install-recommends", "install", *self.packages)
        removed = _REMOVED.findall(said)
        if removed:
            raise MachineError(
                f"{', '.join(self.packages)} cannot be here together with {', '.join(sorted(removed))}",
                hint="Nothing was removed. Remove them yourself, if nobody needs them, and run this again.",
            )
        new = set(_NEW.findall(said))
        # Whoever says that a package of theirs provides another is believed by apt, if the other cannot be had.
        if absent := set(self.packages) - new - installed(host):
            raise MachineError(
                f"no repository has {', '.join(sorted(absent))}, in whose place apt would install something else",
                hint="Nothing was installed. Does `apt-get update` reach all repositories? Then run this again.",
            )
        record.save(installed=sorted({*(record.get("installed") or ()), *new}))
        host.do(*_APT, "install", *self.packages)

    def undo(self, host: Host, record: Record) -> str | None:
        ours = sorted(set(record.get("installed") or ()) & known_packages(host))
        if not ours:
            return None
        others = set(_REMOVED.findall(host.read("apt-get", "-s", "purge", *ours))) - set(ours)
        if others:
            raise MachineError(
                f"{', '.join(sorted(others))} came later and need what was installed here",
                hint="Remove them yourself, and run `sealserve k8s install --undo` again: it goes on where it stopped.",
            )
        host.do("apt-get", "-y", "purge", *ours)
        return None


@dataclass(frozen=True)
class RunCommands:
    """Commands that can be repeated, and others that take them back.

    :param given: standard input of the last one.
    """

    name: str
    title: str
    commands: tuple[Sequence[str], ...]
    undone_by: tuple[Sequence[str], ...] = ()
    given: str | None = None

    def shown(self) -> list[str]:
        lines = [shlex.join(command) for command in self.commands]
        return lines + [f"  | {line}" for line in (self.given or "").splitlines()]

    def is_done(self, host: Host, record: Record) -> bool:  # noqa: ARG002 - as all steps
        return record.done

    def apply(self, host: Host, record: Record) -> None:  # noqa: ARG002
        for number, command in enumerate(self.commands, 1):
            host.do(*command, given=self.given if number == len(self.commands) else None)

    def undo(self, host: Host, record: Record) -> str | None:  # noqa: ARG002
        for command in self.undone_by:
            host.do(*command)
        return None


@dataclass(frozen=True)
class LoadModules:
    """Modules of the kernel."""

    name: str
    title: str
    modules: tuple[str, ...]

    def shown(self) -> list[str]:
        return [shlex.join(["modprobe", "-a", *self.modules])]

    def is_done(self, host: Host, record: Record) -> bool:
        return record.done and all(host.path(f"/sys/module/{module}").exists() for module in self.modules)

    def apply(self, host: Host, record: Record) -> None:
        if record.get("loaded") is None:
            record.save(loaded=[m for m in self.modules if not host.path(f"/sys/module/{m}").exists()])
        host.do("modprobe", "-a", *self.modules)

    def undo(self, host: Host, record: Record) -> str | None:
        ours = [module for module in record.get("loaded") or () if host.path(f"/sys/module/{module}").exists()]
        kept = [module for module in ours if host.ask("modprobe", "-r", module) is None]
        return f"the kernel still uses {', '.join(kept)}: the next start is without" if kept else None


@dataclass(frozen=True)
class SetKernelSettings:
    """Settings of the kernel, by their names in sysctl."""

    name: str
    title: str
    settings: dict[str, str] = field(default_factory=dict)

    def shown(self) -> list[str]:
        return [shlex.join(["sysctl", "-w", f"{key}={value}"]) for key, value in self.settings.items()]

    def is_done(self, host: Host, record: Record) -> bool:
        return record.done and all(_kernel_setting(host, key) == value for key, value in self.settings.items())

    def apply(self, host: Host, record: Record) -> None:
        if record.get("before") is None:
            record.save(before={key: _kernel_setting(host, key) for key in self.settings})
        for key, value in self.settings.items():
            host.do("sysctl", "-w", f"{key}={value}")

    def undo(self, host: Host, record: Record) -> str | None:
        for key, value in (record.get("before") or {}).items():
            if value and _kernel_setting(host, key) not in {"", value}:
                host.do("sysctl", "-w", f"{key}={value}")
        return None


@dataclass(frozen=True)
class RemoveAfterwards:
    """Directories that others will fill; those that are not there yet are removed when all is taken back."""

    name: str
    title: str
    paths: tuple[str, ...]

    def shown(self) -> list[str]:
        return [f"note which of these are here already: {' '.join(self.paths)}", "(--undo removes the others)"]

    def is_done(self, host: Host, record: Record) -> bool:  # noqa: ARG002 - as all steps
        return record.done

    def apply(self, host: Host, record: Record) -> None:
        if record.get("new") is None:
            record.save(new=[path for path in self.paths if not host.path(path).exists()])

    def undo(self, host: Host, record: Record) -> str | None:
        mounts = [line.split()[4] for line in host.text("/proc/self/mountinfo").splitlines() if len(line.split()) > 4]
        for path in record.get("new") or ():
            below = [mount for mount in mounts if mount == path or mount.startswith(f"{path}/")]
            if below:
                raise MachineError(
                    f"{below[0]} is still mounted: {path} is not removed with somebody's data in it",
                    hint=f"`umount {shlex.quote(below[0])}`, or restart the machine, and run this again.",
                )
            try:
                if host.path(path).exists():
                    shutil.rmtree(host.path(path))
            except OSError as error:
                raise explain_os_error(error, path, "remove") from error
        return None


@contextlib.contextmanager
def _acting_as(owner: tuple[int, int] | None) -> Iterator[None]:
    """Have what the block does to files done by a user, with no right of root's.

    In directories that are a user's, whatever runs as that user can put a link in the way at any moment, and root
    would write, or give away, what the link leads to.
    """
    if owner is None or owner[0] == 0 or os.geteuid() != 0:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([owner[1]])
    os.setegid(owner[1])
    os.seteuid(owner[0])
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def installed(host: Host) -> set[str]:
    """Names of the packages that are installed."""
    return {name for name, status in _packages(host) if status == "installed"}


def known_packages(host: Host) -> set[str]:
    """Names of the packages of which at least settings are here."""
    return {name for name, status in _packages(host) if status not in {"", "not-installed"}}


def _packages(host: Host) -> list[tuple[str, str]]:
    said = host.ask("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n") or ""
    return [(name, status) for name, _, status in (line.partition(" ") for line in said.splitlines())]


def _kernel_setting(host: Host, key: str) -> str:
    return host.text(f"/proc/sys/{key.replace('.', '/')}").strip()


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
