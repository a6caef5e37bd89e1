"""SGX and TDX as the CPU and the kernel show them, and the size of the EPC."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from sealserve.deploy.doctor.finding import Finding, Level, Question
from sealserve.deploy.doctor.machine import Machine

_EPC_LEAF = 0x12  # CPUID leaf "SGX Capability Enumeration"; from sub-leaf 2 on: sections of the EPC
_MOST_SECTIONS = 16


def examine_cpu(question: Question) -> Iterator[Finding]:
    """SGX, launch control, and what Gramine needs of the CPU."""
    machine, flags = question.machine, question.machine.cpu_flags
    if question.tee == "tdx":
        return
    if "sgx" not in flags:
        yield _no_sgx(question)
        return
    yield Finding("sgx", "ok", "the CPU has SGX, and firmware and hypervisor allow it")
    level = question.needed_for("sgx")
    if "sgx_lc" in flags:
        yield Finding("sgx-launch-control", "ok", "the CPU has flexible launch control (FLC)")
    else:
        yield Finding(
            "sgx-launch-control",
            level,
            "flexible launch control (FLC) is not available: the kernel has no driver for such a CPU, and there is no "
            "DCAP evidence without it",
            "In the BIOS, set SGX launch control to unlocked. Where it has no such setting, take another machine.",
        )
    if "fsgsbase" not in flags:
        yield Finding(
            "fsgsbase",
            level,
            "the kernel does not let programs use FSGSBASE, which Gramine needs",
            "Remove `nofsgsbase` from the kernel's command line, or install Linux 5.9 or later.",
        )
    yield _epc(machine, level)


def _no_sgx(question: Question) -> Finding:
    machine, level = question.machine, question.needed_for("sgx")
    if machine.cpu_vendor != "GenuineIntel":
        name = machine.cpu_vendor or "not x86"
        return Finding("sgx", level, f"the CPU has no SGX: it is no Intel CPU ({name})", "Take a machine that has it.")
    if not machine.kernel_is_at_least(5, 11):
        return Finding(
            "sgx",
            level,
            f"the kernel ({machine.kernel}) is older than its support of SGX (5.11), and does not tell whether the CPU "
            "has it",
            "Install Linux 5.11 or later. `cpuid -1 -l 0x7 | grep SGX` shows what the CPU has.",
        )
    if "hypervisor" in machine.cpu_flags:
        return Finding(
            "sgx",
            level,
            "this virtual machine has no SGX",
            "Take an instance type that has it: `sealserve cloud list` shows some.",
        )
    return Finding(
        "sgx",
        level,
        "the CPU has no SGX, or the BIOS switched it off",
        "Switch SGX on in the BIOS. `cpuid -1 -l 0x7 | grep SGX` shows what the CPU has.",
    )


def _epc(machine: Machine, level: Level) -> Finding:
    size = _epc_of_sysfs(machine)
    if size is None:
        size = _epc_of_cpuid(machine)
    if size is None:
        return Finding(
            "epc",
            "note",
            "the size of the EPC is not known: kernels before 5.17 do not say it",
            "sudo modprobe cpuid && sudo sealserve doctor",
        )
    if size == 0:
        return Finding(
            "epc", level, "there is no EPC, the memory of enclaves", "In the BIOS, give the PRMRR a size larger than 0."
        )
    return Finding("epc", "ok", f"the EPC, the memory of enclaves, has {_gib(size)}")


def _epc_of_sysfs(machine: Machine) -> int | None:
    """Bytes, over all NUMA nodes. Source: Linux, Documentation/ABI/stable/sysfs-devices-node."""
    files = machine.path("/sys/devices/system/node").glob("node*/x86/sgx_total_bytes")
    try:
        sizes = [int(machine.text(f"/{file.relative_to(machine.root)}") or "") for file in files]
    except (OSError, ValueError):
        return None
    return sum(sizes) if sizes else None


def _epc_of_cpuid(machine: Machine) -> int | None:
    """Bytes, by the CPU itself: the device's position is leaf and sub-leaf, and 16 bytes are EAX to EDX.

    Source: Intel SDM volume 3D, "Enumeration of EPC sections"; Linux, drivers ``cpuid(4)``.
    """
    total = 0
    try:
        descriptor = os.open(machine.path("/dev/cpu/0/cpuid"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for section in range(2, 2 + _MOST_SECTIONS):
            registers = os.pread(descriptor, 16, section << 32 | _EPC_LEAF)
            eax, ecx, edx = (int.from_bytes(registers[at : at + 4], "little") for at in (0, 8, 12))
            if eax & 0xF != 1:
                break
            total += (edx & 0xFFFFF) << 32 | ecx & 0xFFFFF000
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return total


def examine_memory(question: Question) -> Iterator[Finding]:
    """The machine's memory."""
    found = re.search(r"^MemTotal:\s*([0-9]{1,15}) kB$", question.machine.text("/proc/meminfo") or "", re.MULTILINE)
    if found is None:
        yield Finding("memory", "note", "the size of the memory is not known")
    else:
        yield Finding("memory", "ok", f"the machine has {_gib(int(found[1]) << 10)} of memory")


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
