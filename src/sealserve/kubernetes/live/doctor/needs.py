"""What pods refer to and rendering does not make: claims and Secrets; and who counts for an autoscaler, and asks."""

from __future__ import annotations

from collections.abc import Iterator

from sealserve.deploy.doctor import Finding
from sealserve.kubernetes.live.doctor.question import Question
from sealserve.kubernetes.live.kinds import CLAIM, SECRET
from sealserve.kubernetes.live.monitoring_namespace import shut_out
from sealserve.kubernetes.tee import platform_secret, tls_secret
from sealserve.kubernetes.yaml_text import Object

_SHARED = {"ReadOnlyMany", "ReadWriteMany"}
_METRICS = "metrics.k8s.io/v1beta1"
_CUSTOM_METRICS = ("custom.metrics.k8s.io/v1beta2", "custom.metrics.k8s.io/v1beta1")


def examine_namespace(question: Question) -> Iterator[Finding]:
    """Whether the namespace is there, and is not about to go."""
    there, name = question.namespace, question.plan.namespace
    if there is None:
        yield Finding("namespace", "note", f"the namespace {name} is not there yet; applying makes it")
    elif there.get("status", {}).get("phase") == "Terminating":
        mend = "Wait until it is gone, or see what keeps it: kubectl get namespace -o yaml."
        yield Finding("namespace", "problem", f"the namespace {name} is being deleted", mend)
    else:
        yield Finding("namespace", "ok", f"the namespace {name} is there")


def examine_storage(question: Question) -> Iterator[Finding]:
    """Claims of pods that are not among what is rendered, and the sealed model on nodes."""
    made = {found["metadata"]["name"] for found in question.objects if found["kind"] == "PersistentVolumeClaim"}
    for claim in _referred(question, "persistentVolumeClaim", "claimName"):
        if claim in made:
            continue
        found = question.cluster.get(CLAIM, claim, namespace=question.plan.namespace)
        if found is None:
            text = f"there is no PersistentVolumeClaim {claim} in {question.plan.namespace}"
            yield Finding("storage", "problem", text, "Make it, with the sealed model's files in its root.")
        else:
            yield _bound(question, claim, found)
    if (path := question.plan.section.sealed_model.host_path) is not None:
        yield Finding("storage", "note", f"whether {path} is on every node cannot be seen from here")


def examine_secrets(question: Question) -> Iterator[Finding]:
    """Secrets that replicas mount."""
    made_by_apply = {platform_secret(question.plan), tls_secret(question.plan)}
    for name in _referred(question, "secret", "secretName"):
        if question.cluster.get(SECRET, name, namespace=question.plan.namespace) is not None:
            yield Finding("secrets", "ok", f"the Secret {name} is there")
        elif name in made_by_apply:
            text = f"the Secret {name} is not there yet: pods wait for it"
            yield Finding("secrets", "note", text, "`sealserve k8s apply` makes it; `k8s render` prints the command.")
        else:
            yield Finding("secrets", "problem", f"there is no Secret {name}", "Make it: pods wait for it.")


def examine_scaling(question: Question) -> Iterator[Finding]:
    """What an autoscaler asks."""
    for scaler in question.objects:
        if scaler["kind"] != "HorizontalPodAutoscaler":
            continue
        kinds = {metric["type"] for metric in scaler["spec"]["metrics"]}
        if "Resource" in kinds:
            mend = "Install the metrics server (https://github.com/kubernetes-sigs/metrics-server)."
            yield _asked(question, (_METRICS,), "CPU", mend)
        if kinds & {"Pods", "Object", "External"}:
            mend = "Install the Prometheus adapter (https://github.com/kubernetes-sigs/prometheus-adapter)."
            yield _asked(question, _CUSTOM_METRICS, "requests in flight", mend)


def examine_monitoring(question: Question) -> Iterator[Finding]:
    """Whether the namespace is there that may ask for metrics."""
    if (wrong := shut_out(question.cluster, question.plan)) is not None:
        mend = "Name the one in which Prometheus runs; or make it, before Prometheus comes there."
        yield Finding("monitoring", "warning", wrong, mend)
    elif question.plan.section.monitoring is not None:
        there = question.plan.section.monitoring.namespace
        yield Finding("monitoring", "ok", f"the namespace {there} is there, which alone may ask for metrics")


def _asked(question: Question, versions: tuple[str, ...], what: str, mend: str) -> Finding:
    served = [version for version in versions if question.resources_of(version)]
    if served:
        return Finding("autoscaling", "ok", f"{served[0]} tells the autoscaler of {what}")
    return Finding("autoscaling", "problem", f"nobody tells the autoscaler of {what} ({versions[0]})", mend)


def _bound(question: Question, name: str, claim: Object) -> Finding:
    phase = claim.get("status", {}).get("phase")
    if phase == "Lost":
        return Finding("storage", "problem", f"the volume of the claim {name} is gone", "Make the claim anew.")
    if phase != "Bound":
        text = f"the claim {name} is bound to no volume yet ({phase})"
        mend = "kubectl describe pvc; with WaitForFirstConsumer it is bound when the first pod comes."
        return Finding("storage", "warning", text, mend)
    modes = set(claim["spec"].get("accessModes") or ())
    if question.wanted > 1 and not modes & _SHARED:
        text = f"the claim {name} is for pods of one node alone ({', '.join(sorted(modes))})"
        return Finding("storage", "warning", text, "Use one with ReadOnlyMany or ReadWriteMany, or an image volume.")
    return Finding("storage", "ok", f"the claim {name} is bound")


def _referred(question: Question, kind: str, key: str) -> list[str]:
    return list(
        dict.fromkeys(
            volume[kind][key] for _, pod in question.pods for volume in pod.get("volumes") or () if kind in volume
        )
    )
