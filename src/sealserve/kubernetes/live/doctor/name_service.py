"""The cluster's DNS: who answers, for which domain, and whether what was rendered looks there."""

from __future__ import annotations

from collections.abc import Iterator

from sealserve.deploy.doctor import Finding
from sealserve.kubernetes.live.corefile import CorefileError, read_corefile
from sealserve.kubernetes.live.doctor.question import Question
from sealserve.kubernetes.live.errors import ClusterRefusedError
from sealserve.kubernetes.live.kinds import CONFIG_MAP, SERVICE

_DOMAIN = "cluster.local"
_REVERSE = ("in-addr.arpa", "ip6.arpa")


def examine_name_service(question: Question) -> Iterator[Finding]:
    """The DNS service that nginx asks, and the cluster's domain."""
    edge = question.plan.section.edge
    if edge.kind == "nginx":
        name, _, rest = edge.resolver.partition(".")
        namespace = rest.partition(".")[0]
        if question.cluster.get(SERVICE, name, namespace=namespace) is not None:
            yield Finding("dns", "ok", f"nginx asks the DNS service {namespace}/{name}")
        else:
            others = [
                f"{found['metadata']['name']}.{found['metadata']['namespace']}.svc.{_DOMAIN}"
                for found in question.services
                if any(port.get("port") == 53 for port in found["spec"].get("ports") or ())
            ]
            mend = f"Set kubernetes.edge.resolver: {others[0]}." if others else "Set kubernetes.edge.resolver to it."
            text = f"there is no DNS service {namespace}/{name}, which nginx is told to ask"
            yield Finding("dns", "problem", text, mend)
    domain = _domain(question)
    if domain is None:
        yield Finding("cluster-domain", "note", f"the cluster's domain is not known; {_DOMAIN} is assumed")
    elif domain == _DOMAIN:
        yield Finding("cluster-domain", "ok", f"the cluster's domain is {domain}")
    else:
        level_text = f"the cluster's domain is {domain}"
        if edge.kind == "nginx":
            text = f"{level_text}, and nginx looks for replicas under {_DOMAIN}"
            yield Finding("cluster-domain", "problem", text, "Use another kubernetes.edge.kind on this cluster.")
        else:
            yield Finding("cluster-domain", "ok", level_text)


def _domain(question: Question) -> str | None:
    """As CoreDNS' configuration says it, where it can be read."""
    try:
        found = question.cluster.get(CONFIG_MAP, "coredns", namespace="kube-system")
        blocks = read_corefile(str((found or {}).get("data", {}).get("Corefile", ""))).blocks
    except (ClusterRefusedError, CorefileError):
        return None
    zones = [zone for block in blocks for plugin in block.named("kubernetes") for zone in plugin.arguments]
    return next((zone.rstrip(".") for zone in zones if zone.rstrip(".") not in _REVERSE), None)
