"""Whether a machine can become a cluster, asked before anything is changed."""

from __future__ import annotations

import ipaddress
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from sealserve.kubernetes.machine import pins
from sealserve.kubernetes.machine.host import Host
from sealserve.kubernetes.machine.steps import installed

_LEAST_MEMORY = 1700  # MB, as kubeadm has it
_LEAST_DISK = 10 << 30
_CLUSTERS = {
    "/etc/kubernetes/admin.conf": "a cluster of kubeadm",
    "/etc/kubernetes/kubelet.conf": "a node of a cluster",
    "/var/lib/etcd/member": "data of etcd",
    "/etc/rancher": "k3s or RKE2",
    "/var/snap/microk8s": "MicroK8s",
    "/var/lib/k0s": "k0s",
}
_DEFAULT_CONTAINERD = 'disabled_plugins = ["cri"]'
_LISTENING = "0A"
_VERSION = re.compile(r"\bv?(\d+)\.\d+\.\d+")


def release(host: Host) -> tuple[str, str]:
    """ID and VERSION_ID of the system."""
    values = dict(line.partition("=")[::2] for line in host.text("/etc/os-release").splitlines() if "=" in line)
    return values.get("ID", "").strip('"'), values.get("VERSION_ID", "").strip('"')


def hindrances(host: Host, *, sgx: bool) -> Iterator[str]:
    """What stands in the way, each with what to do."""
    if release(host) not in pins.SYSTEMS:
        known = ", ".join(f"{name} {version}" for name, version in pins.SYSTEMS)
        yield f"this system ({' '.join(release(host)) or 'unknown'}) is none of: {known}"
    if platform.machine() != "x86_64":
        yield f"images of sealserve are for x86-64, and this is {platform.machine()}"
    if not host.path("/run/systemd/system").is_dir():
        yield "systemd does not run here (a container?), and kubelet is its service"
    if not host.path("/sys/fs/cgroup/cgroup.controllers").exists():
        yield "the kernel has cgroup v1, which kubelet refuses: start it with systemd.unified_cgroup_hierarchy=1"
    yield from _size(host)
    for path, what in _CLUSTERS.items():
        if host.path(path).exists():
            yield f"{path} is here: {what}. Remove that cluster first, with its own means"
    yield from _other_software(host)
    for port in sorted(_listening(host).intersection(pins.PORTS)):
        yield f"somebody listens on port {port}: `ss -ltnp 'sport = :{port}'` says who"
    for network in _routes(host):
        for ours in (pins.POD_NETWORK, pins.SERVICE_NETWORK):
            if network.overlaps(ipaddress.IPv4Network(ours)):
                yield f"this machine has a route to {network}, which the cluster's {ours} would cover"
    if sgx and not host.path("/dev/sgx_enclave").exists():
        yield "there is no /dev/sgx_enclave: `sealserve doctor --tee sgx` says what is missing"


def notes(host: Host) -> Iterator[str]:
    """What should be known, and stands in no way."""
    if len(host.text("/proc/swaps").splitlines()) > 1:
        yield "there is swap: it stays on, and pods do not use it"


def _size(host: Host) -> Iterator[str]:
    total = next((line.split()[1] for line in host.text("/proc/meminfo").splitlines() if "MemTotal" in line), "0")
    megabytes = int(total) * 1024 // 1_000_000
    if megabytes < _LEAST_MEMORY:
        yield f"{megabytes} MB of memory are too little: kubeadm wants {_LEAST_MEMORY}, and replicas want their own"
    if (os.cpu_count() or 1) < 2:
        yield "kubeadm wants two CPUs"
    if shutil.disk_usage(host.path("/var")).free < _LEAST_DISK:
        yield "/var has less than 10 GiB of free space, which images need"


def _other_software(host: Host) -> Iterator[str]:
    packages = installed(host)
    for name in sorted(packages.intersection(pins.KUBERNETES_PACKAGES)):
        yield f"{name} is installed already, and may serve somebody: `apt-get purge {name}` if not"
    for name in sorted(packages.intersection(("containerd", "docker.io"))):
        yield f"the distribution's {name} cannot be here together with {pins.CONTAINERD_PACKAGE}: purge it, if you can"
    if pins.CONTAINERD_PACKAGE in packages:
        found = _VERSION.search(host.ask("containerd", "--version") or "")
        if found is None or int(found[1]) < 2:
            yield f"{pins.CONTAINERD_PACKAGE} here is older than 2, which Kubernetes wants: upgrade it"
    settings = host.text("/etc/containerd/config.toml").splitlines()
    if {line for line in settings if line and not line.startswith("#")} - {_DEFAULT_CONTAINERD}:
        yield "/etc/containerd/config.toml has settings of yours: move it away, if nobody needs them"
    names = ("/etc/apt/sources.list", "/etc/apt/sources.list.d")
    files = [file for name in names for file in (host.path(name), *_in(host.path(name))) if file.is_file()]
    for file in sorted(files):
        text = file.read_text(errors="replace")
        if "pkgs.k8s.io" in text or (pins.DOCKER_REPOSITORY in text and pins.CONTAINERD_PACKAGE not in packages):
            yield f"{file} names a repository that is needed here, perhaps with another key: move it away"


def _in(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def _listening(host: Host) -> set[int]:
    """TCP ports that somebody listens on (proc_net_tcp)."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in host.text(f"/proc/net/{name}").splitlines()[1:]]
    return {int(fields[1].rpartition(":")[2], 16) for fields in lines if len(fields) > 3 and fields[3] == _LISTENING}


def _routes(host: Host) -> Iterator[ipaddress.IPv4Network]:
    """Networks that the machine has a route to, all networks aside (/proc/net/route: hexadecimal, in host order)."""
    for fields in (line.split() for line in host.text("/proc/net/route").splitlines()[1:]):
        address, mask = (int.from_bytes(bytes.fromhex(fields[at])[::-1]) for at in (1, 7))
        if mask:
            yield ipaddress.IPv4Network((address & mask, mask.bit_count()))
