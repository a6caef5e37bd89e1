"""What this machine must have before a cluster can be built and started."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

_PACKAGES = {
    # Program → Debian's package.
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
}
_MODULES = Path(__file__).parent / "modules"
_SYSTEM_DIRECTORIES = ("/usr/sbin", "/sbin")


class UnfitError(Exception):
    """This machine cannot run the cluster; the text says what it lacks."""


def environment() -> dict[str, str]:
    """The environment of the cluster's programs: system administration's directories are in the path."""
    return os.environ | {"PATH": os.pathsep.join([os.environ.get("PATH", ""), *_SYSTEM_DIRECTORIES])}


def go_version() -> str:
    """Version and platform of the Go that builds, as ``go version`` says it.

    :raises UnfitError: there is none, or it is older than the modules need and may not fetch a newer one.
    """
    if shutil.which("go") is None:
        raise UnfitError("the cluster's programs are built from source: install Go (https://go.dev/dl)")
    done = subprocess.run(["go", "version"], cwd=_MODULES / "kubernetes", capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnfitError(f"Go is too old: {done.stderr.strip()}")
    return done.stdout.strip()


def require() -> None:
    """Install with apt-get what is missing. :raises UnfitError: something is missing, and cannot be installed here."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise UnfitError("the cluster is for Linux on x86_64")
    if os.geteuid() != 0:
        raise UnfitError("a cluster on this machine needs root: it makes namespaces, mounts and network interfaces")
    go_version()
    missing = _missing()
    if missing and shutil.which("apt-get"):
        quiet = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
        apt = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run([*quiet, "update"], check=False, env=apt, stdout=subprocess.DEVNULL)
        install = [*quiet, "install", "-y", "--no-install-recommends", *missing]
        subprocess.run(install, check=False, env=apt, stdout=subprocess.DEVNULL)
        missing = _missing()
    if missing:
        raise UnfitError(f"the cluster needs {', '.join(missing)}: install these packages")
    if not _can_make_namespaces():
        raise UnfitError("this machine does not let root make namespaces (unshare), as inside many containers")


def _missing() -> list[str]:
    path = environment()["PATH"]
    return sorted({package for program, package in _PACKAGES.items() if shutil.which(program, path=path) is None})


def _can_make_namespaces() -> bool:
    command = ["unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--mount-proc", "true"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
