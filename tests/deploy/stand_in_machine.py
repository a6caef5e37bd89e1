"""A stand-in for a machine: a tree in the place of ``/``, and programs that say what they are told to."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from sealserve.deploy.doctor import Machine

QCNL = '{"pccs_url": "https://sgx-dcap-server-vpc.cn-hangzhou.aliyuncs.com/sgx/certification/v4/"}'
SGX_FLAGS = "fpu fsgsbase sgx sgx_lc hypervisor"
USER = 1000
SGX_GROUP, PROVISION_GROUP = 123, 124


class StandIn:
    """An SGX machine on which everything is as it should be; tests break it."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self.programs = directory / "bin"
        self.programs.mkdir(parents=True)
        self._sockets: list[socket.socket] = []
        self.cpu(SGX_FLAGS)
        self.write("proc/sys/kernel/osrelease", "6.8.0-1031-azure\n")
        self.write("proc/meminfo", "MemTotal:       131928064 kB\nMemFree: 1 kB\n")
        self.write("sys/devices/system/node/node0/x86/sgx_total_bytes", "34359738368\n")
        self.write("sys/devices/system/node/node1/x86/sgx_total_bytes", "34359738368\n")
        self.write("etc/group", f"root:x:0:\nsgx:x:{SGX_GROUP}:\nsgx_prv:x:{PROVISION_GROUP}:aesmd\n")
        self.write("etc/sgx_default_qcnl.conf", QCNL)
        self.write("usr/lib/x86_64-linux-gnu/libdcap_quoteprov.so.1", "")
        self.device("dev/sgx_enclave", 0o666, 0)
        self.device("dev/sgx_provision", 0o660, PROVISION_GROUP)
        self.aesm()
        self.program("gramine-sgx", "echo 'Gramine 1.9 (abc)'")
        self.program("docker", "echo 27.3.1")
        self.program("timedatectl", "echo yes")

    def write(self, name: str, content: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def cpu(self, flags: str, *, vendor: str = "GenuineIntel") -> None:
        self.write("proc/cpuinfo", f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\nbugs\t\t:\n")

    def device(self, name: str, mode: int, group: int) -> None:
        path = self.write(name, "")
        path.chmod(mode)
        os.chown(path, 0, group)

    def remove(self, name: str) -> None:
        (self.root / name).unlink()

    def aesm(self) -> None:
        path = self.root / "var/run/aesmd/aesm.socket"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A socket's name has 108 bytes at most, and a test's directory may be deep.
        before = Path.cwd()
        os.chdir(path.parent)
        listening.bind(path.name)
        os.chdir(before)
        listening.listen()
        self._sockets.append(listening)

    def program(self, name: str, body: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def machine(self, *, user: int = USER, groups: tuple[int, ...] = (USER, SGX_GROUP, PROVISION_GROUP)) -> Machine:
        return Machine(self.root, f"{self.programs}:/usr/bin:/bin", user, frozenset(groups))

    def close(self) -> None:
        for listening in self._sockets:
            listening.close()
