"""A machine as its file system and its programs show it. Tests put a stand-in tree in the place of ``/``."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TEXT_LIMIT = 256 << 10
_RUN_SECONDS = 2.5  # three container engines are asked one after the other


def _own_groups() -> frozenset[int]:
    return frozenset({os.getegid(), *os.getgroups()})


@dataclass(frozen=True)
class Machine:
    """What can be read of a machine. Nothing here raises: what cannot be read is not there.

    :param root: its ``/``. :param search_path: where programs are looked for. :param user: the user whose permissions
        count. :param groups: that user's groups.
    """

    root: Path = Path("/")
    search_path: str = field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    user: int = field(default_factory=os.geteuid)
    groups: frozenset[int] = field(default_factory=_own_groups)

    def path(self, name: str) -> Path:
        """Where ``name``, an absolute path, is."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str | None:
        """The beginning of a file (256 KiB); none if it cannot be read, or is no file."""
        try:
            # Without waiting, should it be a pipe.
            with os.fdopen(os.open(self.path(name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                return file.read(_TEXT_LIMIT).decode(errors="replace") if regular else None
        except OSError:
            return None

    def status(self, name: str) -> os.stat_result | None:
        """``stat`` of a path; none if it is not there."""
        try:
            return self.path(name).stat()
        except OSError:
            return None

    def has_program(self, name: str) -> bool:
        """Whether a program can be run by its name."""
        return shutil.which(name, path=self.search_path) is not None

    def run(self, *command: str) -> str | None:
        """What a program prints (256 KiB at most); none if it is not there, fails, or takes longer than 2.5 seconds."""
        program = shutil.which(command[0], path=self.search_path)
        if program is None:
            return None
        environment = {"PATH": self.search_path, "LC_ALL": "C", "HOME": os.environ.get("HOME", "/")}
        return _output([program, *command[1:]], environment)

    @property
    def cpu_flags(self) -> frozenset[str]:
        """The flags of the first CPU in ``/proc/cpuinfo``."""
        found = re.search(r"^flags\s*:(.*)$", self.text("/proc/cpuinfo") or "", re.MULTILINE)
        return frozenset(found[1].split()) if found else frozenset()

    @property
    def cpu_vendor(self) -> str:
        """``GenuineIntel``, ``AuthenticAMD``, or whatever ``/proc/cpuinfo`` says; empty on other architectures."""
        found = re.search(r"^vendor_id\s*:\s*(\S+)$", self.text("/proc/cpuinfo") or "", re.MULTILINE)
        return found[1] if found else ""

    @property
    def kernel(self) -> str:
        """The kernel's release, for people."""
        return (self.text("/proc/sys/kernel/osrelease") or "unknown").strip()

    def kernel_is_at_least(self, major: int, minor: int) -> bool:
        """Whether the kernel's release says so; a release without numbers is none."""
        found = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", self.kernel)
        return found is not None and (int(found[1]), int(found[2])) >= (major, minor)

    @property
    def in_container(self) -> bool:
        """Whether Docker or Podman made the surroundings."""
        return any(self.status(name) is not None for name in ("/.dockerenv", "/run/.containerenv"))

    def may_use(self, status: os.stat_result) -> bool:
        """Whether the user may read and write something, by its permission bits."""
        if self.user == 0:
            return True
        if status.st_uid == self.user:
            bits = status.st_mode >> 6
        elif status.st_gid in self.groups:
            bits = status.st_mode >> 3
        else:
            bits = status.st_mode
        return bits & 0o6 == 0o6

    def group_name(self, number: int) -> str:
        """The name of a group, or its number where it has none."""
        for line in (self.text("/etc/group") or "").splitlines():
            name, _, rest = line.partition(":")
            if rest.split(":")[1:2] == [str(number)]:
                return name
        return str(number)


def _output(command: Sequence[str], environment: dict[str, str]) -> str | None:
    with (
        contextlib.suppress(OSError),
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        ) as program,
    ):
        alarm = threading.Timer(_RUN_SECONDS, _end, (program.pid,))
        alarm.daemon = True
        alarm.start()
        with program.stdout or contextlib.nullcontext() as pipe:
            said = b"" if pipe is None else pipe.read(_TEXT_LIMIT)
        failed = program.wait()  # whoever has more to say than the limit finds the pipe closed
        alarm.cancel()
        return None if failed else said.decode(errors="replace").strip()
    return None


def _end(program: int) -> None:
    """End a program, and the ones that it started."""
    with contextlib.suppress(OSError):
        os.killpg(program, signal.SIGKILL)
