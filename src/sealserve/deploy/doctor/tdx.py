"""TDX guests: the CPU's flag, the kernel's device, reports through configfs-tsm, and RTMR 3.

Sources: Linux, ``Documentation/ABI/testing/configfs-tsm-report``, in the kernel since 6.7, and
``sysfs-devices-virtual-misc-tdx_guest`` beside it, since 6.16.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from sealserve.deploy.doctor.finding import Finding, Level, Question
from sealserve.deploy.doctor.machine import Machine

_CONFIGFS = "/sys/kernel/config"
_REPORTS = f"{_CONFIGFS}/tsm/report"
_DEVICE = "/dev/tdx_guest"
_REGISTER = "/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384"  # as sealserve.enclave.trust_domain has it


def examine_tdx(question: Question) -> Iterator[Finding]:
    """Whether this is a TDX guest that can gather quotes."""
    machine = question.machine
    if "tdx_guest" not in machine.cpu_flags:
        if question.tee == "tdx":
            yield Finding(
                "tdx-guest",
                "problem",
                "this is no TDX guest, or its kernel does not know TDX",
                "Create the instance as a confidential VM of a TDX family: `sealserve cloud list` shows some.",
            )
            yield from _without_guest(question)
        return
    level = question.needed_for("tdx")
    yield Finding("tdx-guest", "ok", "this is a TDX guest")
    yield from _without_guest(question)
    if machine.status(_DEVICE) is None:
        yield Finding("tdx-device", level, f"there is no {_DEVICE}", "sudo modprobe tdx_guest")
    else:
        yield Finding("tdx-device", "ok", f"{_DEVICE} is there")
    yield _register(machine, level)
    if not machine.kernel_is_at_least(6, 7):
        yield Finding(
            "tdx-reports",
            level,
            f"the kernel ({machine.kernel}) has no configfs-tsm, which gives quotes since 6.7",
            "Install Linux 6.7 or later, and restart.",
        )
        return
    if machine.status(_REPORTS) is None:
        mounted = machine.status(f"{_CONFIGFS}/tsm") is not None
        mend = "sudo modprobe tdx_guest" if mounted else f"sudo mount -t configfs configfs {_CONFIGFS}"
        yield Finding("tdx-reports", level, f"there is no {_REPORTS}", mend)
        return
    yield _provider(question)


def _without_guest(question: Question) -> Iterator[Finding]:
    if question.profile is not None and question.profile.tdx.quotes == "vtpm":
        yield Finding(
            "tdx-paravisor",
            question.needed_for("tdx"),
            f"on {question.profile.provider} TDX reports are a paravisor's, not the guest's: `tee: tdx` cannot attest",
            f"sealserve cloud show {question.profile.full_name}",
        )


def _register(machine: Machine, level: Level) -> Finding:
    """RTMR 3, which a replica extends with its settings: without it none runs."""
    status = machine.status(_REGISTER)
    if status is None and not machine.kernel_is_at_least(6, 16):
        return Finding(
            "tdx-register",
            level,
            f"the kernel ({machine.kernel}) does not let programs extend RTMR 3, as it does since 6.16",
            "Install Linux 6.16 or later, and restart.",
        )
    if status is None:
        mend = 'sudo modprobe tdx_guest; grep CONFIG_TSM_MEASUREMENTS "/boot/config-$(uname -r)"'
        return Finding("tdx-register", level, f"there is no {_REGISTER}", mend)
    if not machine.may_use(status):
        return Finding(
            "tdx-register",
            level,
            "this user may not extend RTMR 3",
            "Run sealserve as root in the guest, or look again with `sudo sealserve doctor`.",
        )
    return Finding("tdx-register", "ok", "replicas can put their settings into RTMR 3")


def _provider(question: Question) -> Finding:
    level = question.needed_for("tdx")
    provider, refused = _read_provider(question.machine)
    if provider == "tdx_guest":
        return Finding("tdx-reports", "ok", f"quotes can be gathered at {_REPORTS}")
    if provider is not None:
        return Finding("tdx-reports", level, f"reports at {_REPORTS} come from {provider}, and not from tdx_guest")
    if refused:
        return Finding(
            "tdx-reports",
            level,
            f"this user may not make reports at {_REPORTS}",
            "Run sealserve as root in the guest, or look again with `sudo sealserve doctor`.",
        )
    return Finding("tdx-reports", level, f"nobody provides reports at {_REPORTS}", "sudo modprobe tdx_guest")


def _read_provider(machine: Machine) -> tuple[str | None, bool]:
    """Who makes reports, by an entry made for the purpose and removed; and whether making one is not allowed."""
    directory = machine.path(_REPORTS)
    entry = directory / f"sealserve-doctor-{os.getpid()}"
    try:
        entry.mkdir()
    except PermissionError:
        return _provider_of_others(directory), True
    except OSError:
        return _provider_of_others(directory), False
    try:
        return (entry / "provider").read_text(encoding="ascii").strip(), False
    except (OSError, ValueError):
        return _provider_of_others(directory), False
    finally:
        with contextlib.suppress(OSError):
            entry.rmdir()


def _provider_of_others(directory: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        for file in directory.glob("*/provider"):
            return file.read_text(encoding="ascii").strip()
    return None
