"""A pod like a replica's, for some seconds, which looks for the key brokers: their names, and TLS that verifies them.

It has the replicas' labels, so that the same NetworkPolicies hold for it, and a readiness gate that nobody opens, so
that no Service leads to it. It runs the image's Python alone: no enclave, no evidence, no key.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from sealserve.broker.messages import ALPN
from sealserve.deploy.doctor import Finding
from sealserve.kubernetes.live.doctor.question import Question, condition
from sealserve.kubernetes.live.errors import ClusterRefusedError, ConflictError
from sealserve.kubernetes.live.image_trouble import image_trouble
from sealserve.kubernetes.live.kinds import POD
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.pods import container_security, pod_security
from sealserve.kubernetes.rendering import broker_authority
from sealserve.kubernetes.replicas import REPLICA_USER
from sealserve.kubernetes.yaml_text import Object

SECONDS = 120
"""How long the pod may take, with the time for its image to come."""

_PAUSE = 0.5
_GATE = "sealserve.dev/not-for-requests"
_MEND = (
    "Does the broker run (`sealserve broker run`)? Compare kubernetes.broker and image.brokers with where it listens, "
    "and look at firewalls between."
)
# Whichever version the image has.
_PYTHON = 'for python in /usr/bin/python3.??; do exec "$python" -I -c "$0" "$@"; done'
# One line of JSON for each broker. Only the standard library: the image's packages may be of another version.
_SCRIPT = """
import json, socket, ssl, sys
ca, alpn, *brokers = sys.argv[1:]
for broker in brokers:
    host, port = broker.rsplit(":", 1)
    host = host.strip("[]")
    told = {"broker": broker}
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        told["addresses"] = sorted({entry[4][0] for entry in found})
        context = ssl.create_default_context(cadata=ca)
        context.set_alpn_protocols([alpn])
        with socket.create_connection((host, int(port)), 10) as plain:
            told["connected"] = True
            with context.wrap_socket(plain, server_hostname=host) as secure:
                told["verified"] = secure.version()
    except ssl.SSLCertVerificationError as error:
        told["error"] = error.verify_message
    except OSError as error:
        told["error"] = error.strerror or str(error)
    print(json.dumps(told), flush=True)
"""


def examine_broker(question: Question, on_progress: Callable[[str], None]) -> Iterator[Finding]:
    """Start the pod, say what it found, and remove it in any case."""
    plan = question.plan
    if plan.unmodified:
        text = "whether pods reach the key broker cannot be tried: the image of tensorflow_model_server has no Python"
        yield Finding("broker", "note", text)
        return
    if question.namespace is None:
        text = f"whether pods reach the key broker cannot be tried: the namespace {plan.namespace} is not there yet"
        yield Finding("broker", "warning", text, f"kubectl create namespace {plan.namespace}, or apply first.")
        return
    name = f"{plan.name[:40]}-doctor-{secrets.token_hex(3)}"
    try:
        with contextlib.suppress(ConflictError):  # an answer was lost, and the request was made again
            question.cluster.post(POD.path(plan.namespace), probe_pod(plan, name), of=f"Pod {name}")
        on_progress(f"waiting for the pod {name}, which looks for the key broker")
        pod = _ended(question, name)
        findings = list(_judge(question, name, pod))
    except ClusterRefusedError as error:
        findings = [Finding("broker", "warning", f"no pod could be tried: {error.message}", error.hint)]
    finally:
        question.cluster.delete(POD, name, namespace=plan.namespace)
    yield from findings


def probe_pod(plan: Plan, name: str) -> Object:
    """The pod."""
    brokers = [str(address) for address in plan.brokers]
    container = {
        "name": "probe",
        "image": plan.section.image,
        "command": ["/bin/sh", "-c", _PYTHON, _SCRIPT],
        "args": [broker_authority(plan.deployment), ALPN, *brokers],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": container_security(),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": plan.namespace, "labels": plan.all_labels("replica")},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": SECONDS,
            "terminationGracePeriodSeconds": 1,
            "readinessGates": [{"conditionType": _GATE}],
            "securityContext": pod_security(REPLICA_USER),
            "containers": [container],
        },
    }


def _ended(question: Question, name: str) -> Object:
    """The pod when it has ended, or when its time is over."""
    until = time.monotonic() + SECONDS
    while True:
        pod = question.cluster.get(POD, name, namespace=question.plan.namespace) or {}
        if pod.get("status", {}).get("phase") in ("Succeeded", "Failed") or time.monotonic() > until or _stuck(pod):
            return pod
        time.sleep(_PAUSE)


def _stuck(pod: Object) -> str | None:
    """Why a pod will not start, if that is known."""
    for status in pod.get("status", {}).get("containerStatuses") or ():
        waiting = status.get("state", {}).get("waiting") or {}
        if waiting.get("reason") in {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerError"}:
            return image_trouble(waiting["reason"], str(waiting.get("message") or ""), str(status.get("image")))
    if condition(pod, "PodScheduled") == "False":
        found = [one for one in pod["status"]["conditions"] if one["type"] == "PodScheduled"]
        return str(found[0].get("message") or found[0].get("reason"))
    return None


def _judge(question: Question, name: str, pod: Object) -> Iterator[Finding]:
    if (why := _stuck(pod)) is not None:
        yield Finding("probe", "problem", f"the pod {name} cannot start: {why}", "Replicas would not start either.")
        return
    phase = pod.get("status", {}).get("phase")
    if phase not in ("Succeeded", "Failed"):
        yield Finding("probe", "warning", f"the pod {name} did not start within {SECONDS} seconds ({phase})")
        return
    said = question.cluster.logs(name, namespace=question.plan.namespace)
    told: list[dict[str, Any]] = []
    for line in said.splitlines():
        try:
            one = json.loads(line)
            if isinstance(one, dict) and isinstance(one.get("broker"), str):
                told.append(one)
        except (ValueError, RecursionError):
            continue
    if not told:
        last = said.strip().splitlines()[-1:] or [str(pod.get("status", {}).get("reason") or "it said nothing")]
        text = f"the image cannot look for the key broker: {last[0]}"
        yield Finding("probe", "warning", text, "Has it Python, as sealserve's images have?")
    for one in told:
        yield _of_broker(one)


def _of_broker(told: dict[str, Any]) -> Finding:
    broker, error = told["broker"], told.get("error", "it ended")
    where = ", ".join(map(str, found if isinstance(found := told.get("addresses"), list) else ()))
    if "verified" in told:
        text = f"a pod reaches the key broker {broker} ({where}), and its certificate is from the right authority"
        return Finding("broker", "ok", text)
    if "addresses" not in told:
        mend = "`sealserve k8s dns apply` puts it into CoreDNS; kubernetes.broker gives it a name of its own."
        return Finding("broker", "problem", f"no pod finds the key broker's name {broker}: {error}", mend)
    if "connected" not in told:
        return Finding("broker", "problem", f"no pod reaches the key broker {broker} ({where}): {error}", _MEND)
    mend = "`sealserve prepare` makes the broker's certificate anew, with the names in image.brokers."
    return Finding("broker", "problem", f"what answers at {broker} is not the key broker: {error}", mend)
