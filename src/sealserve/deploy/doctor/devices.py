"""Device nodes of the SGX driver, and whether this user may use them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from sealserve.deploy.clouds.profile import Devices
from sealserve.deploy.doctor.finding import Finding, Level, Question
from sealserve.deploy.doctor.machine import Machine

_LEGACY = {
    "/dev/isgx": "the out-of-tree driver without launch control",
    "/dev/sgx/enclave": "the DCAP driver of before Linux 5.11",
}


def examine_devices(question: Question) -> Iterator[Finding]:
    """``/dev/sgx_enclave`` and ``/dev/sgx_provision``."""
    if question.tee != "sgx":
        return
    devices = question.profile.devices if question.profile is not None else Devices()
    present = False
    for check, name, purpose in (
        ("sgx-enclave-device", devices.enclave, "starts enclaves"),
        ("sgx-provision-device", devices.provision, "lets them be attested"),
    ):
        status = question.machine.status(name)
        if status is None:
            yield _missing(question, check, name)
        else:
            present = True
            yield _usable(question.machine, check, name, status, purpose)
    if not present:
        yield from _legacy(question)


def _missing(question: Question, check: str, name: str) -> Finding:
    machine, level = question.machine, question.needed_for("sgx")
    if "sgx" not in machine.cpu_flags:
        return Finding(check, level, f"there is no {name}, because the kernel sees no SGX")
    if machine.in_container:
        mend = (
            f"Give it to the container: `docker run --device {name} …`; in Kubernetes Intel's device plugin does "
            "(`sgx.intel.com/enclave`, `sgx.intel.com/provision`)."
        )
        return Finding(check, level, f"this container has no {name}", mend)
    if not machine.kernel_is_at_least(5, 11):
        return Finding(
            check,
            level,
            f"there is no {name}: the kernel ({machine.kernel}) has no SGX driver",
            "Install Linux 5.11 or later, and restart.",
        )
    return Finding(
        check,
        level,
        f"there is no {name}, though the CPU has SGX",
        'sudo dmesg | grep -i sgx; grep CONFIG_X86_SGX "/boot/config-$(uname -r)"',
    )


def _usable(machine: Machine, check: str, name: str, status: os.stat_result, purpose: str) -> Finding:
    if stat.S_ISDIR(status.st_mode):
        return Finding(
            check,
            "problem",
            f"{name} is a directory: container engines make one when the file to mount is not there",
            f"Remove it (`sudo rmdir {name}`), and pass the device with --device.",
        )
    if not machine.may_use(status):
        group = machine.group_name(status.st_gid)
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        if status.st_gid == 0 or status.st_mode & 0o060 != 0o060:
            mend = "sudo apt-get install --reinstall sgx-aesm-service libsgx-enclave-common && sudo udevadm trigger"
        else:
            mend = f'sudo usermod -aG {group} "$USER", and log in again'
        return Finding(check, "problem", f"this user may not use {name} (mode {mode}, group {group})", mend)
    if (refusal := _refusal(machine, name, status)) is not None:
        return Finding(
            check,
            "problem",
            f"{name} cannot be opened ({refusal}), though its permissions allow it",
            "If this is a container, pass the device with --device: a mount alone does not allow its use.",
        )
    return Finding(check, "ok", f"{name} {purpose}, and this user may use it")


def _refusal(machine: Machine, name: str, status: os.stat_result) -> str | None:
    """Why the device cannot be opened: a container's device rules do not show in its permissions."""
    if not stat.S_ISCHR(status.st_mode):
        return None
    try:
        os.close(os.open(machine.path(name), os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return os.strerror(error.errno or 0)
    return None


def _legacy(question: Question) -> Iterator[Finding]:
    level: Level = question.needed_for("sgx")
    for name, what in _LEGACY.items():
        if question.machine.status(name) is not None:
            yield Finding(
                "sgx-legacy-driver",
                level,
                f"{name} is of {what}, which Gramine does not support",
                "Remove that driver, install Linux 5.11 or later, and restart.",
            )
