"""SGX on nodes, as device plugins tell of it, and how much protected memory nobody has asked for."""

from __future__ import annotations

from collections.abc import Iterator

from sealserve.deploy.clouds import load_profile, profile_names
from sealserve.deploy.doctor import Finding
from sealserve.kubernetes.live.doctor.nodes import ready_nodes, requests, room_left
from sealserve.kubernetes.live.doctor.question import Question
from sealserve.kubernetes.live.kinds import names

_GIB, _MIB = 1 << 30, 1 << 20
_INTEL = "sgx.intel.com/epc"
_PLUGIN = (
    "Install Intel's device plugin for SGX (https://github.com/intel/intel-device-plugins-for-kubernetes); on AKS "
    "`az aks enable-addons --addons confcom` does."
)


def examine_sgx(question: Question) -> Iterator[Finding]:
    """Device plugins, EPC left on each node, and what of attestation cannot be seen from here."""
    if question.plan.deployment.tee != "sgx":
        yield Finding("sgx", "note", "SIMULATED: replicas need no SGX, and nothing protects them from the cluster")
        return
    asked = {name: amount for name, amount in requests(question.replica).items() if "/" in name}
    nodes = ready_nodes(question)
    offered = {str(node["metadata"]["name"]): node["status"].get("allocatable", {}) for node in nodes}
    having = [node for node in nodes if all(_has(offered[node["metadata"]["name"]], name) for name in asked)]
    if not having:
        yield from _missing(offered, sorted(asked))
        return
    epc = next(name for name in asked if "epc" in name)
    unit = _MIB if epc.lower().endswith("mib") else 1
    lefts = []
    for node in having:
        free = room_left(question, node).get(epc, 0)
        lefts.append(f"{node['metadata']['name']} {float(free) * unit / _GIB:.1f} GiB ({int(free // asked[epc])})")
    yield Finding(
        "sgx",
        "ok",
        f"{len(having)} of {len(nodes)} nodes have {' and '.join(sorted(asked))}; EPC left there, and for how many "
        f"replicas: {names(lefts)}",
    )
    yield Finding("epc-limits", "note", "device plugins count EPC for scheduling; none holds a pod to its limit")
    claims = [volume for volume in question.replica["volumes"] if volume["name"] == "aesmd-socket"]
    if claims:
        yield Finding(
            "aesm",
            "note",
            "whether AESM runs on the nodes cannot be seen from here: its socket's directory is a path of the node",
            "sealserve doctor --tee sgx (on a node)",
        )


def _has(allocatable: dict[str, str], name: str) -> bool:
    return str(allocatable.get(name, "0")) != "0"


def _missing(offered: dict[str, dict[str, str]], asked: list[str]) -> Iterator[Finding]:
    others = {name for resources in offered.values() for name in resources if "sgx" in name and _has(resources, name)}
    if not others:
        yield Finding("sgx", "problem", f"no node offers {' and '.join(asked)}", _PLUGIN)
        return
    text = f"no node offers {' and '.join(asked)}; nodes offer {' and '.join(sorted(others))}"
    clouds = [name for name in profile_names() if _epc_of(name) in others]
    if _INTEL in others and not clouds:
        mend = "Take `cloud` out of deployment.yaml, or name one whose cluster has Intel's plugin."
    else:
        mend = f"Set `cloud` in deployment.yaml: {', '.join(clouds)}." if clouds else _PLUGIN
    yield Finding("sgx", "problem", text, mend)


def _epc_of(name: str) -> str | None:
    kubernetes = load_profile(name).kubernetes
    return None if kubernetes is None else kubernetes.epc
