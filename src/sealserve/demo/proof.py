"""The proof: nobody on the platform saw plaintext, and what must be refused is refused."""

from __future__ import annotations

import asyncio
import re

from sealserve.demo import attempts, inspection
from sealserve.demo.errors import DemonstrationFailedError
from sealserve.demo.inspection import Secrets
from sealserve.demo.question import INPUT, Question
from sealserve.demo.report import Step
from sealserve.demo.tap import Tap
from sealserve.errors import PolicyRefusedError
from sealserve.local.cluster import LocalCluster
from sealserve.local.proc import all_processes

_LOG_PATIENCE = 3.0


async def prove(cluster: LocalCluster, tap: Tap, question: Question, step: Step) -> None:
    """Look for plaintext wherever the platform could look, and try what must not work.

    :raises DemonstrationFailedError: plaintext was found, or something was not refused.
    """
    await _wait_for_gateway_log(cluster, tap)
    await asyncio.to_thread(_look, cluster, tap, question, step)
    changed, damaged = await asyncio.gather(
        attempts.run_changed_replica(cluster), attempts.run_on_damaged_model(cluster)
    )
    layout = cluster.prepared.layout
    _require_refusal(changed, "a replica with one more line of code", "changed_replica", step)
    if (reason := attempts.broker_reason(layout.broker_configuration, changed.decision)) is None:
        raise DemonstrationFailedError("the broker's audit log does not say why it refused the changed replica")
    # People compare the beginnings of measurements; scripts get them whole.
    shown = re.sub(r"\b([0-9a-f]{16})[0-9a-f]{48}\b", r"\1…", reason)
    step.say(f"    the broker's own log: {shown}", broker_reason=reason)
    _require_refusal(damaged, "a sealed model with one bit flipped", "damaged_model", step)
    await _refuse_at_client(cluster, tap, question, step)


async def _refuse_at_client(cluster: LocalCluster, tap: Tap, question: Question, step: Step) -> None:
    """A client whose policy names another enclave sends nothing to these replicas."""
    before = len(tap.sent)

    def call() -> str | None:
        policy = attempts.policy_for_another_enclave(cluster.prepared)
        with question.client(tap, policy) as client:
            try:
                client.predict({INPUT: question.tensor}, model=question.model)
            except PolicyRefusedError as error:
                return error.message
        return None

    said = await asyncio.to_thread(call)
    sent = len(tap.sent) - before
    if said is None or sent >= question.tensor.nbytes // 2:
        raise DemonstrationFailedError("a client sent its picture to an enclave that its policy does not accept")
    step.say(
        f"refused: by a client whose policy names another enclave; {sent:,} bytes left it, and its picture has "
        f"{question.tensor.nbytes:,}",
        client_refusal={"said": said, "bytes_sent": sent, "bytes_of_input": question.tensor.nbytes},
    )


def _require_refusal(outcome: attempts.Outcome, what: str, name: str, step: Step) -> None:
    if not outcome.refused:
        raise DemonstrationFailedError(f"{what} was not refused (exit code {outcome.exit_code}): {outcome.said}")
    step.say(f"refused: {what}", **{name: {"exit_code": outcome.exit_code, "said": outcome.said}})
    step.lines.append(f"    it says: {outcome.said}")


async def _wait_for_gateway_log(cluster: LocalCluster, tap: Tap) -> None:
    """nginx writes a line when a connection has ended, which may be a moment after its client closed it."""
    for _ in range(int(_LOG_PATIENCE / 0.05)):
        if inspection.forwarded(cluster.prepared.layout).connections >= tap.connections:
            return
        await asyncio.sleep(0.05)


def _look(cluster: LocalCluster, tap: Tap, question: Question, step: Step) -> None:
    layout, model = cluster.prepared.layout, cluster.deployment.model.path
    pixels = question.tensor.tobytes()
    tls_key = None if cluster.deployment.tls.mode == "attested" else layout.server_key
    secrets = Secrets.gather(wrap_key=layout.wrap_key, tls_key=tls_key, model=model, pictures=[pixels])

    wire = inspection.look_at_wire(tap, secrets)
    inspection.require_clean(wire, "on the wire")
    counted = inspection.forwarded(layout)
    if (counted.received, counted.sent) != (len(tap.sent), len(tap.received)):
        raise DemonstrationFailedError(
            f"the gateway forwarded {counted.received}+{counted.sent} bytes, but the tap saw "
            f"{len(tap.sent)}+{len(tap.received)}: it did not see everything"
        )
    step.say(
        f"ciphertext only: on the wire to the gateway, {wire.bytes_searched:,} bytes, all that nginx says it forwarded",
        wire={"bytes": wire.bytes_searched, "found": 0},
    )
    gateway = cluster.process("gateway").child
    session = gateway.pid if gateway else -1
    memory = inspection.look_at_gateway([f.pid for f in all_processes() if f.session == session], secrets)
    inspection.require_clean(memory, "in the gateway's memory")
    unread = f"; {len(memory.unreadable)} of its processes could not be read" if memory.unreadable else ""
    step.say(
        f"ciphertext only: in nginx's memory, {memory.bytes_searched / 1e6:.0f} MB{unread}"
        if memory.places
        else "not looked at: nginx's memory, which this user may not read",
        gateway_memory={"bytes": memory.bytes_searched, "unreadable": len(memory.unreadable), "found": 0},
    )
    disk = inspection.look_at_disk(layout, secrets)
    inspection.require_clean(disk, f"below {layout.platform}")
    step.say(
        f"ciphertext only: on the platform's disk, {disk.places} files, {disk.bytes_searched / 1e6:.0f} MB, all below "
        f"{layout.platform}",
        disk={"directory": str(layout.platform), "files": disk.places, "bytes": disk.bytes_searched, "found": 0},
    )
    inspection.require_found(layout, secrets, model, pixels)
    step.say(
        f"looked for: {len(secrets.needles)} pieces of key, model and picture. The same search finds them in owner/ "
        "and in the client's request",
        needles=len(secrets.needles),
    )
