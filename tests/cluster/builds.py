"""The cluster's programs, built from Go modules and kept in a cache.

The cache is ``$SEALSERVE_CLUSTER_CACHE``, or ``~/.cache/sealserve-cluster``. A program lies there under a digest of its
module's files, of how it is built and of Go's version, so that a change of any of them builds it anew.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cluster.needs import go_version

KUBERNETES_VERSION = "1.36.3"

_MODULES = Path(__file__).parent / "modules"
_VERSION = "k8s.io/component-base/version"
_STRIPPED = "-s -w"
# Programs of Kubernetes say a version only if the linker gives them one.
_KUBERNETES_FLAGS = (
    f"{_STRIPPED} -X {_VERSION}.gitVersion=v{KUBERNETES_VERSION} -X {_VERSION}.gitMajor=1 -X {_VERSION}.gitMinor=36 "
    f"-X {_VERSION}.gitTreeState=clean"
)

Report = Callable[[str], None]


@dataclass(frozen=True)
class Program:
    """:ivar module: directory in ``modules``. :ivar package: of its main. :ivar flags: of the linker."""

    name: str
    module: str
    package: str = "."
    flags: str = _STRIPPED


def _kubernetes(name: str) -> Program:
    return Program(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", _KUBERNETES_FLAGS)


def _containerd(name: str) -> Program:
    return Program(name, "containerd", f"github.com/containerd/containerd/v2/cmd/{name}")


PROGRAMS = (
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kubelet"),
    _kubernetes("kube-proxy"),
    _kubernetes("kubectl"),
    Program("etcd", "etcd"),
    _containerd("containerd"),
    _containerd("containerd-shim-runc-v2"),
    _containerd("ctr"),
    Program("coredns", "coredns"),
    Program("pause", "pause"),
)
"""What every cluster needs."""

KWOK = Program("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok")
"""Nodes and pods that cost nothing."""

TRAEFIK = Program("traefik", "traefik", "github.com/traefik/traefik/v3/cmd/traefik")
"""A controller of the Gateway API, with TLSRoute."""


def cache_directory() -> Path:
    """Where programs and layers of images are kept."""
    configured = os.environ.get("SEALSERVE_CLUSTER_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "sealserve-cluster"


def build(program: Program, report: Report = print) -> Path:
    """The program's file, built if it is not in the cache.

    :param report: is told what is built, and how long it took.
    :raises cluster.needs.UnfitError: there is no Go that can. :raises RuntimeError: the build failed.
    """
    module = _MODULES / program.module
    target = cache_directory() / _digest(module, program) / program.name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_suffix(".lock")):
        if target.exists():  # another process was quicker
            return target
        report(f"building {program.name} ...")
        started = time.monotonic()
        part = target.with_suffix(f".{os.getpid()}.part")
        command = ["go", "build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", program.flags]
        done = subprocess.run(
            [*command, "-o", part, program.package],
            cwd=module,
            env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program.name} cannot be built:\n{done.stderr[-4000:]}")
        part.replace(target)
        report(f"built {program.name} in {time.monotonic() - started:.0f} s")
    return target


def module_directory(name: str, path: str) -> Path:
    """The files of a Go module, of the version that ``modules/NAME`` pins. :param path: the module's path.

    :raises cluster.needs.UnfitError: there is no Go. :raises RuntimeError: the module cannot be had.
    """
    go_version()
    command = ["go", "mod", "download", "-json", path]
    done = subprocess.run(
        command, cwd=_MODULES / name, env=os.environ | {"GOFLAGS": ""}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the module {path} cannot be had:\n{done.stdout}{done.stderr}")
    return Path(json.loads(done.stdout)["Dir"])


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that one process on this machine can have at a time. :param path: its file, which stays."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(module: Path, program: Program) -> str:
    digest = sha256(f"{go_version()}\n{program.package}\n{program.flags}\n".encode())
    for path in sorted(module.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
