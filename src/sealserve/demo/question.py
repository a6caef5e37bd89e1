"""The client's part: verify a replica through the gateway, send it a picture, and reach the other replica as well."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sealserve.client import Client, OwnerCertificates, Prediction, imagenet_labels
from sealserve.client.images import Array, image_tensor
from sealserve.client.labels import Ranked, best
from sealserve.demo.errors import DemonstrationFailedError
from sealserve.demo.report import Step
from sealserve.demo.tap import Tap
from sealserve.evidence import AppraisalPolicy
from sealserve.local.cluster import LocalCluster
from sealserve.local.tls import client_certificates

INPUT, OUTPUT = "images", "probabilities"
_NEW_CONNECTIONS = 8


@dataclass(frozen=True)
class Question:
    """What was asked: the pixels as they were sent, and of whom."""

    server_name: str
    certificates: OwnerCertificates | None
    model: str
    tensor: Array

    def client(self, tap: Tap, policy: AppraisalPolicy) -> Client:
        """A client with another policy, and all else as it was asked with."""
        return Client(tap.address, policy, server_name=self.server_name, certificates=self.certificates)


async def ask(cluster: LocalCluster, tap: Tap, picture: Image.Image, path: Path, step: Step) -> Question:
    """Verify, classify, and classify again through a new connection, which the gateway gives to the other replica.

    :raises DemonstrationFailedError: all connections reached the same replica.
    """
    policy = AppraisalPolicy.load(cluster.prepared.layout.client_policy)
    server_name, model = cluster.deployment.tls.server_name, cluster.deployment.model.name
    certificates = client_certificates(cluster.deployment, cluster.prepared.layout)

    def client() -> Client:
        return Client(tap.address, policy, server_name=server_name, certificates=certificates)

    def first_call() -> tuple[Question, Prediction, float]:
        with client() as first:
            started = time.monotonic()
            first.verify()
            verified = time.monotonic() - started
            spec = first.metadata(model).signature("serving_default").inputs[INPUT]
            tensor = image_tensor(picture, spec)
            answer = first.predict({INPUT: tensor}, model=model)
        return Question(server_name, certificates, model, tensor), answer, verified

    def other_call(but: str) -> Prediction | None:
        for _ in range(_NEW_CONNECTIONS):
            with client() as other:
                answer = other.predict({INPUT: question.tensor}, model=model)
            if answer.replica != but:
                return answer
        return None

    question, answer, seconds = await asyncio.to_thread(first_call)
    evidence = answer.evidence
    step.say(
        f"{answer.replica} verified in {seconds * 1000:.0f} ms: {'SIMULATED ' if evidence.simulated else ''}enclave "
        f"{evidence.mrenclave.hex()[:16]}…, TCB {evidence.tcb_status}, key bound to this very connection",
        verified=answer.verified.as_dict(),
        verify_seconds=round(seconds, 4),
    )
    labels = best(answer.outputs[OUTPUT][0], imagenet_labels())
    step.say(f"{path.name}, answered by {answer.replica} in {answer.seconds * 1000:.0f} ms:")
    for ranked in labels:
        step.say(describe(ranked))
    second = await asyncio.to_thread(other_call, answer.replica)
    if second is None:
        raise DemonstrationFailedError(f"{_NEW_CONNECTIONS} new connections were all answered by {answer.replica}")
    step.say(
        f"a new connection: {second.replica} verified, and answered in {second.seconds * 1000:.0f} ms",
        image=str(path),
        predictions=[{"index": r.index, "label": r.label, "score": round(r.score, 6)} for r in labels],
        answered_by=[answer.replica, second.replica],
    )
    return question


def describe(ranked: Ranked) -> str:
    """One line about one class, with a bar."""
    bar = "█" * round(ranked.score * 24) or "▏"
    return f"  {ranked.score:6.1%}  {ranked.label:<24} {bar}"
