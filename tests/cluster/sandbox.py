"""Namespaces in which everything of a cluster runs, and which end with the process that made them.

The first process in them reads from a pipe that only the starter holds: when the starter ends, however it ends, the
first process does, and the kernel ends all others of its process namespace with it. Mounts, network interfaces and
firewall rules are gone with their namespaces.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

from cluster.addresses import SLOTS, Addresses
from cluster.needs import environment

_PREFIX = "sealserve-k8s-"
_FIRST = """\
set -e
mount --make-rshared /
mount --bind "$1/run" /run
mount --bind "$1/log" /var/log
hostname "$2"
echo ready
cat >/dev/null
:
"""
_UNSHARE = ("unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--mount-proc", "--propagation", "private")
_CGROUPS = Path("/sys/fs/cgroup")


class Sandbox:
    """The namespaces of one cluster, with a directory, cgroups and addresses of their own.

    ``/run`` and ``/var/log`` are directories of the cluster inside; every other path is this machine's.

    :ivar directory: of the cluster; gone at the end. :ivar cgroup: path of its cgroups, below each hierarchy's root.
    """

    def __init__(self, hostname: str) -> None:
        remove_leftovers()
        self.directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self.directory.chmod(0o755)
        (self.directory / "owner").write_text(_identity(os.getpid()) or "")
        self.cgroup = f"/{self.directory.name}"
        for name in ("run", "log"):
            (self.directory / name).mkdir()
        for hierarchy in _hierarchies():
            (hierarchy / self.directory.name).mkdir(exist_ok=True)
        self._unshare = subprocess.Popen(
            [*_UNSHARE, "sh", "-c", _FIRST, "sh", self.directory, hostname],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the starter, which ends things in good order
            env=environment(),
        )
        try:
            self._first = self._first_process()
            self.addresses = self._connect()
        except BaseException:
            self.close()
            raise

    def command(self, *words: str | Path) -> list[str]:
        """The command that runs ``words`` inside."""
        return ["nsenter", f"--target={self._first}", "--mount", "--net", "--pid", "--uts", "--", *map(str, words)]

    def run(self, *words: str | Path, stdin: bytes | None = None) -> str:
        """Run a command inside, and return its output. :raises RuntimeError: it failed; the text has its words."""
        done = subprocess.run(
            self.command(*words), input=stdin, capture_output=True, check=False, env=environment(), timeout=120
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, words))}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode()

    def start(self, *words: str | Path, log: IO[bytes]) -> Inside:
        """Start a process inside."""
        return Inside(
            subprocess.Popen(
                self.command(*words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment(),
            )
        )

    def close(self) -> None:
        """End every process inside, and remove what is left of the cluster."""
        assert self._unshare.stdin is not None
        self._unshare.stdin.close()
        try:
            self._unshare.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._unshare.kill()
        _remove(self.directory)

    def _first_process(self) -> int:
        assert self._unshare.stdout is not None
        if self._unshare.stdout.readline() != b"ready\n":
            raise RuntimeError("the namespaces of the cluster could not be made")
        return _child(self._unshare.pid)

    def _connect(self) -> Addresses:
        for slot in range(SLOTS):
            addresses = Addresses(slot)
            inside = ["type", "veth", "peer", "name", "eth0", "netns", str(self._first)]
            if _ip("link", "add", addresses.link, *inside):
                break
        else:
            raise RuntimeError(f"there are {SLOTS} clusters on this machine, or no network interface can be made")
        _ip("address", "add", f"{addresses.host}/30", "dev", addresses.link)
        _ip("link", "set", addresses.link, "up")
        for line in (
            "ip link set lo up",
            f"ip address add {addresses.node}/30 dev eth0",
            "ip link set eth0 up",
            f"ip route add default via {addresses.host}",
            "sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1",
        ):
            self.run(*line.split())
        for network in (addresses.pods, addresses.services):
            _ip("route", "add", network, "via", addresses.node)
        return addresses


class Inside:
    """A process in the namespaces, started through nsenter, which stays as its parent."""

    def __init__(self, outer: subprocess.Popen[bytes]) -> None:
        self._outer = outer

    @property
    def running(self) -> bool:
        return self._outer.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself: nsenter passes none on."""
        if self.running:
            with contextlib.suppress(ProcessLookupError, RuntimeError):
                os.kill(_child(self._outer.pid), number)

    def stop(self, *, timeout: float = 5) -> None:
        """Ask it to end, and kill it if it does not: API servers and etcd wait long for those that watch them."""
        self.signal(signal.SIGTERM)
        try:
            self._outer.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once, without a chance to do anything about it."""
        self.signal(signal.SIGKILL)
        self._outer.wait(timeout=20)


def remove_leftovers() -> None:
    """Remove directories and cgroups of clusters whose starter was killed. Their processes ended with it."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            owner = (directory / "owner").read_text()
            if owner and owner != _identity(int(owner.split()[0])):
                _remove(directory)


def _remove(directory: Path) -> None:
    for hierarchy in _hierarchies():
        _remove_cgroups(hierarchy / directory.name)
    shutil.rmtree(directory, ignore_errors=True)


def _remove_cgroups(top: Path) -> None:
    # Processes that were just killed leave their cgroups a moment later.
    deadline = time.monotonic() + 5
    while top.exists() and time.monotonic() < deadline:
        for path in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                path.rmdir()
        try:
            top.rmdir()
        except OSError:
            time.sleep(0.1)


def _hierarchies() -> list[Path]:
    """The roots of the cgroup hierarchies: one in version 2, one for each controller in version 1."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [path for path in _CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]


def _identity(process: int) -> str | None:
    """A process's number and start time, which no other process has had."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return f"{process} {fields[19]}"


def _child(parent: int) -> int:
    """The number of a process's only child, once it has one."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                    return int(stat.parent.name)
        time.sleep(0.01)
    raise RuntimeError(f"process {parent} has no child")


def _ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], check=False, capture_output=True, env=environment()).returncode == 0
