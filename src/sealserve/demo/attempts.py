"""What must be refused: replicas that ask for the key, or open the model, when something about them is not right."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import sealserve
from sealserve.broker.settings import BrokerSettings
from sealserve.demo.errors import DemonstrationFailedError
from sealserve.errors import MachineError
from sealserve.evidence import AppraisalPolicy
from sealserve.files import explain_os_error, write_atomically
from sealserve.local.child import Child, ProcessSpec
from sealserve.local.cluster import LocalCluster
from sealserve.local.commands import replica_command
from sealserve.local.diagnosis import diagnose
from sealserve.local.prepare import PreparedCluster

_PATIENCE = 30.0


@dataclass(frozen=True)
class Outcome:
    """How a replica ended. ``refused`` is true only if it ended by itself with the exit code of a refusal of trust."""

    refused: bool
    exit_code: int | None
    said: str
    decision: str | None = None
    """The broker's number for its decision, if it made one."""


async def run_changed_replica(cluster: LocalCluster) -> Outcome:
    """Start a replica whose code differs from the measured one by a single line.

    The change does nothing; it could as well print the key. A copy of the package goes to the platform's directory,
    as the platform's owner could make one.
    """
    layout = cluster.prepared.layout
    copy = layout.temporary / "changed"
    package = copy / "sealserve"
    _copy(Path(sealserve.__path__[0]), package)
    with (package / "enclave" / "replica.py").open("a") as file:
        file.write("\n# One more line.\n")
    try:
        return await _run(cluster, "replica-changed", environment={"PYTHONPATH": str(copy)})
    finally:
        shutil.rmtree(copy, ignore_errors=True)


async def run_on_damaged_model(cluster: LocalCluster) -> Outcome:
    """Start an honest replica on a copy of the sealed model in which one bit of the largest file is flipped."""
    layout = cluster.prepared.layout
    copy = layout.temporary / "damaged"
    _copy(layout.sealed_model, copy)
    victim = max((path for path in copy.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    with victim.open("r+b") as file:
        middle = victim.stat().st_size // 2
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 1]))
    try:
        return await _run(cluster, "replica-damaged", sealed=copy)
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target)
    except shutil.Error as error:  # one error for all files, without a number
        raise MachineError(
            f"cannot copy {source} to {target}", hint="Is the disk full? Choose another --directory."
        ) from error
    except OSError as error:
        raise explain_os_error(error, target, "write") from error


async def _run(
    cluster: LocalCluster, name: str, *, sealed: Path | None = None, environment: dict[str, str] | None = None
) -> Outcome:
    layout = cluster.prepared.layout
    command = list(
        replica_command(
            layout,
            name=name,
            listen=cluster.broker.with_port(0),
            broker=cluster.broker,
            deployment=cluster.deployment.name,
            server_name=cluster.deployment.tls.server_name,
        )
    )
    if sealed is not None:
        command[command.index("--sealed") + 1] = str(sealed)
    child = await Child.spawn(
        ProcessSpec(
            name=name,
            role="replica",
            command=tuple(command),
            log=layout.log(name),
            working_directory=layout.platform,
            environment={"TMPDIR": str(layout.temporary), **(environment or {})},
        ),
        {},
    )
    try:
        code = await asyncio.wait_for(child.wait(), _PATIENCE)
    except TimeoutError:
        return Outcome(refused=False, exit_code=None, said="it did not end by itself")
    finally:
        child.kill()
    diagnosis = diagnose(code, child.last_lines)
    decision = re.search(r"decision ([\w-]+)", diagnosis.reason)
    return Outcome(code == 4, code, diagnosis.reason, decision[1] if decision else None)


def broker_reason(broker_configuration: Path, decision: str | None) -> str | None:
    """Why the broker decided so, from the audit log in the owner's store."""
    with BrokerSettings.load(broker_configuration).open_store() as store:
        line = None if decision is None else store.decision_line(decision)
    return None if line is None else json.loads(line).get("detail")


def policy_for_another_enclave(prepared: PreparedCluster) -> AppraisalPolicy:
    """The client's policy, but for an enclave whose measurement differs in every bit."""
    ours = prepared.enclave.mrenclave
    other = bytes(byte ^ 0xFF for byte in ours)
    path = prepared.layout.client / "policy-for-another-enclave.yaml"
    text = prepared.layout.client_policy.read_text()
    if ours.hex() not in text:
        raise DemonstrationFailedError("the client's policy does not name the measured enclave")
    write_atomically(path, text.replace(ours.hex(), other.hex()))
    return AppraisalPolicy.load(path)
