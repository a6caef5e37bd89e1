"""What holds pods to what they may do: Pod Security, and NetworkPolicies, which not every network plugin enforces."""

from __future__ import annotations

from collections.abc import Iterator

from sealserve.deploy.doctor import Finding
from sealserve.kubernetes.live.doctor.question import Question
from sealserve.kubernetes.live.errors import ClusterRefusedError, ForbiddenError
from sealserve.kubernetes.live.kinds import NAMESPACE, POD
from sealserve.kubernetes.yaml_text import Object

_ENFORCE = "pod-security.kubernetes.io/enforce"
_RESTRICTED = "restricted"

# Names of network plugins' DaemonSets → whether they enforce NetworkPolicies; None if that is a setting of theirs.
_PLUGINS: dict[str, tuple[str, bool | None]] = {
    "cilium": ("Cilium", True),
    "anetd": ("GKE Dataplane V2", True),
    "calico-node": ("Calico", True),
    "canal": ("Canal", True),
    "antrea-agent": ("Antrea", True),
    "kube-router": ("kube-router", True),
    "weave-net": ("Weave Net", True),
    "ovnkube-node": ("OVN-Kubernetes", True),
    "azure-npm": ("Azure's network policy manager", True),
    "aws-node": ("Amazon's VPC CNI", None),
    "kindnet": ("kindnet", None),
    "kube-flannel-ds": ("Flannel", False),
    "kube-flannel": ("Flannel", False),
}


def examine_pod_security(question: Question) -> Iterator[Finding]:
    """Whether a privileged pod is refused in a namespace that asks for it: a server-side dry run, which makes none."""
    namespace = question.plan.namespace
    there = question.namespace
    if there is None or _level(there) != _RESTRICTED:
        found = [one for one in question.cluster.list(NAMESPACE) if _level(one) == _RESTRICTED]
        if not found:
            why = "it is not there yet" if there is None else "it does not ask for it yet"
            text = f"whether Pod Security is enforced cannot be tried before {namespace} is applied: {why}"
            yield Finding("pod-security", "note", text)
            return
        namespace = found[0]["metadata"]["name"]
    privileged = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "sealserve-doctor", "namespace": namespace},
        "spec": {"containers": [{"name": "c", "image": "none", "securityContext": {"privileged": True}}]},
    }
    try:
        question.cluster.post(f"{POD.path(namespace)}?dryRun=All", privileged, of="a dry run")
    except ForbiddenError as error:
        yield Finding("pod-security", "note", f"whether Pod Security is enforced cannot be tried: {error.message}")
    except ClusterRefusedError as error:
        if "PodSecurity" in error.message:
            yield Finding("pod-security", "ok", f"a privileged pod is refused in {namespace}")
        else:
            text = f"a privileged pod is refused in {namespace}, though not by Pod Security: {error.message}"
            yield Finding("pod-security", "note", text)
    else:
        yield Finding(
            "pod-security",
            "problem",
            f"a privileged pod is let into {namespace}, which is labelled {_RESTRICTED}: Pod Security is not enforced",
            "Let the API server's admission plugin PodSecurity on, which it is by default.",
        )


def examine_network_plugin(question: Question) -> Iterator[Finding]:
    """Whether NetworkPolicies are enforced, as far as the network plugin's name tells."""
    found = {}
    for daemon in question.daemons:
        for name, what in _PLUGINS.items():
            if daemon["metadata"]["name"] == name or daemon["metadata"]["name"].endswith(f"-{name}"):
                found[what[0]] = what[1]
    if any("+k3s" in node["status"].get("nodeInfo", {}).get("kubeletVersion", "") for node in question.nodes):
        found["k3s"] = True
    enforcing = [name for name, enforces in found.items() if enforces]
    mend = "Install one that does, such as Calico or Cilium: without it any pod of the cluster reaches replicas."
    if enforcing:
        yield Finding("network-policies", "ok", f"{' and '.join(enforcing)} enforces NetworkPolicies")
    elif any(enforces is None for enforces in found.values()):
        text = f"{' and '.join(found)} enforces NetworkPolicies in newer versions, or when it is told to"
        yield Finding("network-policies", "warning", text, "Look at its version and settings.")
    elif found:
        text = f"{' and '.join(found)} does not enforce NetworkPolicies"
        yield Finding("network-policies", "warning", text, mend)
    else:
        text = "no network plugin is known here that enforces NetworkPolicies"
        yield Finding("network-policies", "warning", text, mend)


def _level(namespace: Object) -> str | None:
    return (namespace["metadata"].get("labels") or {}).get(_ENFORCE)
