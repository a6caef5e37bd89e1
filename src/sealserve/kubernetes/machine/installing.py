"""Makes one machine a cluster, goes on where an earlier run stopped, and takes everything back."""

from __future__ import annotations

import os
import platform
import pwd
from collections.abc import Callable
from pathlib import Path

from sealserve.errors import InputError, MachineError
from sealserve.kubernetes.machine import pins
from sealserve.kubernetes.machine.checks import hindrances, release
from sealserve.kubernetes.machine.host import Host
from sealserve.kubernetes.machine.journal import Journal
from sealserve.kubernetes.machine.recipe import Choices, steps
from sealserve.kubernetes.machine.steps import Step, installed

Say = Callable[[str], None]


def choose(host: Host, *, sgx_plugin: str | None = None) -> Choices:
    """What will be installed here, as of now.

    :param sgx_plugin: image of Intel's SGX device plugin, pinned by digest.
    :raises MachineError: it is asked for, and the kernel does not say how much protected memory there is.
    """
    system = release(host)
    user = pwd.getpwnam(os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name)
    # One that is there is somebody's way to another cluster.
    taken = host.path(f"{user.pw_dir}/.kube/config").exists()
    return Choices(
        system=system[0],
        codename=pins.SYSTEMS.get(system, ""),
        node=platform.node().lower(),
        own_containerd=pins.CONTAINERD_PACKAGE not in installed(host),
        kubeconfig=f"{user.pw_dir}/.kube/{'sealserve.config' if taken else 'config'}",
        owner=(user.pw_uid, user.pw_gid),
        sgx_plugin=sgx_plugin,
        epc=None if sgx_plugin is None else _epc(host),
    )


def planned(host: Host, *, sgx_plugin: str | None = None) -> tuple[Choices, list[str]]:
    """What is installed here, or will be, and what stands in the way of beginning.

    :raises InputError: what was begun is something else.
    """
    if not (host.path(pins.STATE) / "journal.json").exists():
        choices = choose(host, sgx_plugin=sgx_plugin)
        return choices, list(hindrances(host, sgx=sgx_plugin is not None))
    choices = Choices.from_dict(Journal(host.path(pins.STATE)).choices)
    if sgx_plugin is not None and sgx_plugin != choices.sgx_plugin:
        raise InputError(
            f"what was begun here has {'no SGX device plugin' if choices.sgx_plugin is None else choices.sgx_plugin}",
            hint="`sealserve k8s install --undo` takes it back; begin anew then.",
        )
    return choices, []


def install(host: Host, choices: Choices, *, say: Say) -> bool:
    """Take all steps that are not done yet. :returns: whether there was one.

    :raises MachineError: a command fails; the next run goes on there. :raises TrustError: a key is another one.
    """
    changed = False
    with Journal.locked(host.path(pins.STATE)) as journal:
        journal.choices = choices.as_dict()
        for step in steps(choices):
            record = journal.record(step.name)
            if record is not None and record.done and step.is_done(host, record):
                continue
            say(step.title)
            record = journal.begin(step.name)
            step.apply(host, record)
            record.save(done=True)
            changed = True
    return changed


def undo(host: Host, *, say: Say) -> list[str]:
    """Take back what :func:`install` did, however far it came. :returns: what stays, and why.

    :raises MachineError: something stands in the way; the next run goes on there.
    """
    kept: list[str] = []
    with Journal.locked(host.path(pins.STATE)) as journal:
        for step in reversed(_begun(journal)):
            record = journal.record(step.name)
            if record is not None:
                say(f"back: {step.title}")
                kept += [left] if (left := step.undo(host, record)) is not None else []
                journal.forget(step.name)
    return kept


def is_begun(host: Host) -> bool:
    """Whether there is something to take back."""
    return (host.path(pins.STATE) / "journal.json").exists()


def _begun(journal: Journal) -> list[Step]:
    return steps(Choices.from_dict(journal.choices)) if journal.begun else []


def _epc(host: Host) -> int:
    files = host.path("/sys/devices/system/node").glob("node*/x86/sgx_total_bytes")
    size = sum(int(Path(file).read_text()) for file in files)
    if not size:
        raise MachineError(
            "the kernel does not say how much protected memory (EPC) there is",
            hint="It has to be Linux 5.17 or later, with SGX switched on: `sealserve doctor --tee sgx`.",
        )
    return size
