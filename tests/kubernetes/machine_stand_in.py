"""A machine that an installation believes to change: the programs that it calls, and what they would do to files.

The same stand-in works inside a test (:class:`StandIn`), and as the programs on ``PATH`` (:func:`put_on_path`, and
``python machine_stand_in.py ROOT PROGRAM ARGUMENTS``).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = (
    *(
        "apt-get",
        "apt-mark",
        "containerd",
        "curl",
        "dpkg-query",
        "gpg",
        "ip",
        "ip6tables-restore",
        "ip6tables-save",
        "ipset",
    ),
    *("iptables-restore", "iptables-save", "kubeadm", "kubectl", "modprobe", "nft", "sysctl", "systemctl"),
)
KEYS = {
    "https://download.docker.com/linux/debian/gpg": "9DC858229FC7DD38854AE2D88D81803C0EBFCD88",
    "https://pkgs.k8s.io/core:/stable:/v1.37/deb/Release.key": "DE15B14486CD377B9E876E1A234654DA9A296436",
}
# Package → the source, key and preferences that it needs, what it brings, and what it leaves.
_DOCKER, _KUBERNETES = (
    (
        f"/etc/apt/sources.list.d/sealserve-{name}.sources",
        f"/etc/apt/keyrings/sealserve-{name}.gpg",
        f"/etc/apt/preferences.d/00-sealserve-{name}.pref",
    )
    for name in ("docker", "kubernetes")
)
_PACKAGES: dict[str, tuple[tuple[str, ...], list[str], dict[str, str]]] = {
    "containerd.io": (_DOCKER, [], {"/etc/containerd/config.toml": 'disabled_plugins = ["cri"]\n'}),
    "kubelet": (_KUBERNETES, ["kubernetes-cni"], {"/var/lib/kubelet/pki": "x"}),
    "kubeadm": (_KUBERNETES, ["cri-tools"], {}),
    "kubectl": (_KUBERNETES, [], {}),
    "cri-tools": (_KUBERNETES, [], {}),
    "kubernetes-cni": (_KUBERNETES, [], {"/opt/cni/bin/bridge": "x"}),
    "conntrack": ((), ["libnetfilter-conntrack3"], {}),
}
_RULES = """\
*filter
:INPUT ACCEPT [0:0]
:KUBE-ROUTER-INPUT - [0:0]
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -m comment --comment "kube-router netpol" -j KUBE-ROUTER-INPUT
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
:CNI-0123abc - [0:0]
-A POSTROUTING -s 10.244.0.5/32 -m comment --comment "name: \\"sealserve\\" id: \\"77\\"" -j CNI-0123abc
-A CNI-0123abc -d 10.244.0.0/24 -m comment --comment "name: \\"sealserve\\" id: \\"77\\"" -j ACCEPT
-A CNI-0123abc ! -d 224.0.0.0/4 -j MASQUERADE
-A POSTROUTING -o podman0 -j MASQUERADE
COMMIT
"""
RULES_BEFORE = """\
*filter
:INPUT ACCEPT [0:0]
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o podman0 -j MASQUERADE
COMMIT
"""


class FailedError(Exception):
    """A program ends with 1 and says this."""


@dataclass
class StandIn:
    """The programs over a directory that stands for the machine's root."""

    root: Path
    calls: list[list[str]] = field(default_factory=list)

    @classmethod
    def make(cls, root: Path) -> StandIn:
        """A fresh Debian 12."""
        made = cls(root)
        made.write("/etc/os-release", 'ID=debian\nVERSION_ID="12"\n')
        made.write("/proc/meminfo", "MemTotal:       16000000 kB\n")
        made.write("/proc/sys/net/ipv4/ip_forward", "0\n")
        made.write("/proc/swaps", "Filename Type Size Used Priority\n")
        made.write("/proc/net/tcp", "header\n 0: 0100007F:0016 00000000:0000 0A 0 0\n")
        made.write("/proc/net/route", "Iface Destination Gateway Flags\neth0 00000000 0101A8C0 3 0 0 0 00000000\n")
        made.write("/proc/self/mountinfo", "")
        made.write("/sys/fs/cgroup/cgroup.controllers", "cpu\n")
        made.write("/sys/module/overlay/version", "1")
        made.write("/kernel/rules", RULES_BEFORE)
        made.save_packages({"apt": "installed", "curl": "installed", "iptables": "installed", "vim": "config-files"})
        for directory in (
            *("/run/systemd/system", "/var/lib", "/root", "/opt"),
            *("/etc/apt/sources.list.d", "/etc/apt/preferences.d"),
        ):
            made.path(directory).mkdir(parents=True, exist_ok=True)
        return made

    def snapshot(self) -> dict[str, str]:
        """Everything of the machine, by path."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            content = "directory" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(self.root))] = f"{content} {path.stat().st_mode & 0o7777:o}"
        return found

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def write(self, name: str, text: str) -> None:
        """At once: a program that is killed leaves no half of a file, as those that it stands for."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.root.parent / f"stand-in-{os.getpid()}"
        beside.write_text(text)
        beside.replace(path)

    def packages(self) -> dict[str, str]:
        return json.loads(self.path("/kernel/packages").read_text())

    def save_packages(self, packages: dict[str, str]) -> None:
        self.write("/kernel/packages", json.dumps(packages, sort_keys=True))

    def run(self, command: list[str], given: str = "") -> str:
        """What a program prints. :raises FailedError: it fails."""
        self.calls.append(command)
        program, *arguments = command
        how: Callable[..., str] = getattr(self, f"_{program.replace('-', '_')}")
        return how(*arguments, **({"given": given} if given else {}))

    # --- packages ---

    def _apt_get(self, *arguments: str) -> str:
        words = [word for word in arguments if not word.startswith("-") and "::" not in word]
        simulated = "-s" in arguments
        verb, *names = words
        if verb == "update":
            return ""
        packages = self.packages()
        if verb == "install":
            new: list[str] = []
            for name in names:
                needed, depends, _ = _PACKAGES.get(name, ((), [], {}))
                if missing := [path for path in needed if not self.path(path).exists()]:
                    raise FailedError(f"E: Unable to locate package {name}: no {missing}")
                new += [other for other in (*depends, name) if packages.get(other) != "installed" and other not in new]
            if simulated:
                return "".join(f"Inst {name} (1.0 Debian:12 [amd64])\nConf {name} (1.0)\n" for name in new)
            for name in new:
                for path, content in _PACKAGES.get(name, ((), [], {}))[2].items():
                    if not self.path(path).exists():
                        self.write(path, content)
                packages[name] = "installed"
        else:
            assert verb == "purge"
            assert not [name for name in names if packages.get(f"hold {name}")]
            gone = set(names) | {"docker-ce"} if "docker-ce" in packages and "containerd.io" in names else set(names)
            if simulated:
                return "".join(f"Purg {name} [1.0]\n" for name in sorted(gone))
            for name in gone:
                packages.pop(name, None)
                if name == "containerd.io":
                    self.path("/etc/containerd/config.toml").unlink(missing_ok=True)
        self.save_packages(packages)
        return ""

    def _apt_mark(self, verb: str, *names: str) -> str:
        packages = self.packages()
        for name in names:
            if verb == "hold":
                packages[f"hold {name}"] = "hold"
            else:
                packages.pop(f"hold {name}", None)
        self.save_packages(packages)
        return ""

    def _dpkg_query(self, *arguments: str) -> str:
        return "".join(f"{name} {status}\n" for name, status in self.packages().items() if status != "hold")

    def _curl(self, *arguments: str) -> str:
        Path(arguments[arguments.index("--output") + 1]).write_text(KEYS[arguments[-1]])
        return ""

    def _gpg(self, *arguments: str) -> str:
        ring = Path(arguments[arguments.index("--homedir") + 1], "ring")
        if "--import" in arguments:
            ring.write_bytes(Path(arguments[-1]).read_bytes())
        elif "--export" in arguments:
            Path(arguments[arguments.index("--output") + 1]).write_text(f"key {ring.read_text()}")
        else:
            return f"pub:u:255\nfpr:::::::::{ring.read_text()}:\nsub:u:255\nfpr:::::::::{'7' * 40}:\n"
        return ""

    # --- the kernel ---

    def _modprobe(self, option: str, *names: str) -> str:
        for name in names:
            if option == "-r":
                if name == "br_netfilter":
                    shutil.rmtree(self.path("/proc/sys/net/bridge"), ignore_errors=True)
                shutil.rmtree(self.path(f"/sys/module/{name}"), ignore_errors=True)
            elif not self.path(f"/sys/module/{name}").exists():
                if name == "br_netfilter":
                    for setting in ("iptables", "ip6tables"):
                        self.write(f"/proc/sys/net/bridge/bridge-nf-call-{setting}", "1\n")
                self.path(f"/sys/module/{name}").mkdir()
        return ""

    def _sysctl(self, option: str, setting: str) -> str:
        key, _, value = setting.partition("=")
        assert self.path(f"/proc/sys/{key.replace('.', '/')}").exists()
        self.write(f"/proc/sys/{key.replace('.', '/')}", f"{value}\n")
        return ""

    def _iptables_save(self) -> str:
        return self.path("/kernel/rules").read_text()

    def _iptables_restore(self, *, given: str) -> str:
        self.write("/kernel/rules", given)
        return ""

    def _ip6tables_save(self) -> str:
        raise FailedError("no IPv6 here")

    def _ip(self, *arguments: str) -> str:
        if not self.path("/kernel/bridge").exists():
            raise FailedError("no such device")
        self.path("/kernel/bridge").unlink()
        return ""

    def _ipset(self, verb: str, name: str) -> str:
        return ""

    def _nft(self, *arguments: str) -> str:
        raise FailedError("no such table")

    def _containerd(self, *arguments: str) -> str:
        return "containerd containerd.io v2.2.6 0123abc\n"

    def _systemctl(self, *arguments: str) -> str:
        return ""

    # --- the cluster ---

    def _kubeadm(self, verb: str, *arguments: str) -> str:
        if self.packages().get("kubeadm") != "installed":
            raise FailedError("kubeadm: command not found")
        if verb == "version":
            return "v1.37.1\n"
        kubernetes = self.path("/etc/kubernetes")
        if verb == "init":
            if kubernetes.exists() and list(kubernetes.iterdir()):
                raise FailedError("[ERROR FileAvailable--etc-kubernetes-manifests-kube-apiserver.yaml]")
            assert Path(arguments[1]).read_text().startswith("apiVersion: kubeadm.k8s.io/v1beta4")
            assert "SystemdCgroup = true" in self.path("/etc/containerd/config.toml").read_text()
            assert self.path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
            self.write("/etc/kubernetes/manifests/kube-apiserver.yaml", "x")
            self.write("/var/lib/etcd/member/wal", "x")
            self.write("/etc/kubernetes/admin.conf", "the way to the cluster")
            self.write("/kernel/bridge", "x")
            self.write("/kernel/rules", _RULES)
            self.write("/var/lib/cni/networks/sealserve/10.244.0.2", "x")
        else:
            assert verb == "reset"
            for path in ("/etc/kubernetes/manifests", "/etc/kubernetes/admin.conf", "/var/lib/etcd/member"):
                if self.path(path).is_dir():
                    shutil.rmtree(self.path(path))
                else:
                    self.path(path).unlink(missing_ok=True)
        return ""

    def _kubectl(self, *arguments: str, given: str = "") -> str:
        assert arguments[0] == "--kubeconfig"
        if not self.path(arguments[1]).exists():
            raise FailedError("no cluster")
        return ""


def put_on_path(root: Path, directory: Path) -> None:
    """The programs, for a process that has ``directory`` as its ``PATH``."""
    directory.mkdir()
    for name in PROGRAMS:
        program = directory / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {Path(__file__)} {root} {name} "$@"\n')
        program.chmod(0o755)


if __name__ == "__main__":
    reads = sys.argv[2].endswith("-restore") or sys.argv[-1] == "-"
    try:
        sys.stdout.write(StandIn(Path(sys.argv[1])).run(sys.argv[2:], sys.stdin.read() if reads else ""))
    except FailedError as failed:
        sys.exit(str(failed))
