"""Who may talk to whom: NetworkPolicies, and the key broker's name inside the cluster.

A policy that selects a pod closes it to everything that no policy allows. Probes come from the node, which network
plugins let in.
"""

from __future__ import annotations

import ipaddress

from sealserve.addresses import Address
from sealserve.kubernetes.edges import callers
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.yaml_text import Comment, Object

DNS = {
    Comment("DNS. To any address: on some clusters a cache on the node answers, on others pods of kube-system."): None,
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
}


def network_policies(plan: Plan) -> list[Object]:
    """The policies of replicas and, with nginx, of the edge."""
    allowed: Object = {"ports": _ports(plan)}
    if (who := callers(plan)) is not None:
        allowed = {"from": who, **allowed}
    else:
        allowed = {
            Comment("Connections by a node's port may carry any address, the client's or a node's."): None,
            **allowed,
        }
    ways_in = [allowed]
    if plan.metrics_port is not None and plan.section.monitoring is not None:
        namespace = {"kubernetes.io/metadata.name": plan.section.monitoring.namespace}
        ways_in.append(
            {
                Comment("Prometheus asks for metrics."): None,
                "from": [{"namespaceSelector": {"matchLabels": namespace}}],
                "ports": [{"protocol": "TCP", "port": plan.metrics_port}],
            }
        )
    policies = [
        _policy(plan, track.deployment, track.component, ingress=ways_in, egress=[*_to_brokers(plan), DNS])
        for track in plan.tracks
    ]
    if plan.section.edge.kind == "nginx":
        replicas = [{"podSelector": {"matchLabels": plan.labels(track.component)}} for track in plan.tracks]
        to_replicas = {"to": replicas, "ports": _ports(plan)}
        everybody = {Comment("Clients may come from anywhere."): None, "ports": _ports(plan)}
        policies.append(_policy(plan, plan.edge, "edge", ingress=[everybody], egress=[to_replicas, DNS]))
    return policies


def broker_service(plan: Plan) -> list[Object]:
    """The broker outside of the cluster under a name inside, if the deployment asks for one."""
    address = plan.section.broker
    if address is None:
        return []
    version = _ip_version(address.host)
    if version is None:
        spec: Object = {
            "type": "ExternalName",
            "externalName": address.host,
            "ports": [{"name": "broker", "port": address.port}],
        }
        return [plan.object("v1", "Service", plan.broker_service, "broker", spec=spec)]
    family = f"IPv{version}"
    # Headless, so that the name stands for the address itself: policies see what replicas connect to.
    spec = {
        "clusterIP": "None",
        "ipFamilies": [family],
        "ipFamilyPolicy": "SingleStack",
        "ports": [{"name": "broker", "port": address.port}],
    }
    points = plan.object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        plan.broker_service,
        "broker",
        addressType=family,
        ports=[{"name": "broker", "protocol": "TCP", "port": address.port}],
        endpoints=[{"addresses": [address.host], "conditions": {"ready": True}}],
    )
    points["metadata"]["labels"] |= {
        "kubernetes.io/service-name": plan.broker_service,
        "endpointslice.kubernetes.io/managed-by": "sealserve",
    }
    return [plan.object("v1", "Service", plan.broker_service, "broker", spec=spec), points]


def _policy(plan: Plan, name: str, component: str, *, ingress: list[Object], egress: list[Object]) -> Object:
    spec = {
        "podSelector": {"matchLabels": plan.labels(component)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": egress,
    }
    return plan.object("networking.k8s.io/v1", "NetworkPolicy", name, component, spec=spec)


def _ports(plan: Plan) -> list[Object]:
    return [{"protocol": "TCP", "port": port} for port in plan.ports.values()]


def _to_brokers(plan: Plan) -> list[Object]:
    # A service for provisioning certificates (PCCS) is none of the replicas' business: AESM on the node asks it.
    addresses = plan.brokers if plan.section.broker is None else (plan.section.broker, *_others(plan))
    rules: list[Object] = []
    for address in dict.fromkeys(addresses):
        ports = [{"protocol": "TCP", "port": address.port}]
        if plan.keys_namespace is not None and address.host.startswith(f"{plan.broker_service}.{plan.keys_namespace}."):
            pods = {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": plan.keys_namespace}},
                "podSelector": {"matchLabels": plan.labels("key-broker")},
            }
            rules.append({Comment("The key brokers."): None, "to": [pods], "ports": ports})
        else:
            rules.append(allow_to("The key broker", address))
    return rules


def allow_to(what: str, address: Address) -> Object:
    """A rule of egress to one address, or to any where it has a name. :param what: is there, for people."""
    ports = [{"protocol": "TCP", "port": address.port}]
    if (version := _ip_version(address.host)) is None:
        return {Comment(f"{what} {address.host}: policies know addresses only."): None, "ports": ports}
    block = {"cidr": f"{address.host}/{32 if version == 4 else 128}"}
    return {Comment(f"{what}."): None, "to": [{"ipBlock": block}], "ports": ports}


def _others(plan: Plan) -> list[Address]:
    return [address for address in plan.brokers if not address.host.startswith(f"{plan.broker_service}.")]


def _ip_version(host: str) -> int | None:
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None
