"""Whether what leads clients to replicas is ready, and where clients connect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.errors import ForbiddenError
from sealserve.kubernetes.live.kinds import DEPLOYMENT, GATEWAY, NODE, POD, SERVICE, TLS_ROUTE, TRANSPORT_SERVER
from sealserve.kubernetes.live.progress_of import condition, unfinished
from sealserve.kubernetes.live.replica_state import NOT_YET
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.yaml_text import Object

ANY_NODE = "NODE"
"""Stands for the address of nodes that we may not list."""


@dataclass(frozen=True)
class EdgeState:
    """The edge.

    :ivar reason: why it is not ready, or, if it is, what is still missing. :ivar doors: ``grpc`` and ``rest``, and the
        addresses (``HOST:PORT``) at which clients find them, as far as they are known.
    """

    ready: bool
    reason: str | None = None
    doors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def edge_state(cluster: Cluster, plan: Plan) -> EdgeState:
    """The state now, in at most four requests."""
    match plan.section.edge.kind:
        case "nginx":
            return _nginx(cluster, plan)
        case "node-port":
            return EdgeState(True, None, _node_ports(cluster, _service(cluster, plan)))
        case "gateway":
            return _gateway(cluster, plan)
        case "transport-server":
            return _transport_server(cluster, plan)


def _nginx(cluster: Cluster, plan: Plan) -> EdgeState:
    deployment = cluster.get(DEPLOYMENT, plan.edge, namespace=plan.namespace)
    why = "it is not there" if deployment is None else unfinished(deployment)
    service = _service(cluster, plan)
    pods = cluster.list(POD, namespace=plan.namespace, labels=plan.labels("edge"))
    if why is not None:
        trouble = next(filter(None, map(_trouble, pods)), None)
        return EdgeState(False, f"nginx: {why}{'' if trouble is None else f' ({trouble})'}")
    kind, ports = service["spec"]["type"], _ports(service)
    if kind == "ClusterIP":
        host = f"{plan.name}.{plan.namespace}.svc"
        return EdgeState(True, None, {name: (f"{host}:{port['port']}",) for name, port in ports.items()})
    # A node without one of its pods takes no connections (externalTrafficPolicy: Local).
    nodes = {str(pod["spec"].get("nodeName")) for pod in pods}
    if kind == "NodePort":
        return EdgeState(True, None, _node_ports(cluster, service, nodes))
    balancer = service.get("status", {}).get("loadBalancer", {})
    given = [each.get("ip") or each.get("hostname") for each in balancer.get("ingress", ())]
    if given:
        return EdgeState(True, None, {name: _at(given, port["port"]) for name, port in ports.items()})
    return EdgeState(
        True,
        f"the Service {plan.name} has no load balancer's address yet: nodes take connections meanwhile",
        _node_ports(cluster, service, nodes),
    )


def _gateway(cluster: Cluster, plan: Plan) -> EdgeState:
    edge, name = plan.section.edge, str(plan.section.edge.gateway)
    namespace = plan.namespace if edge.gateway_class is not None else edge.controller_namespace
    gateway = cluster.get(GATEWAY, name, namespace=namespace)
    if gateway is None:
        return EdgeState(False, f"there is no Gateway {name} in the namespace {namespace}")
    if (why := _unmet(gateway, "Accepted", "Programmed")) is not None:
        return EdgeState(False, f"Gateway {name}: {why}")
    routes = {each["metadata"]["name"]: each for each in cluster.list(TLS_ROUTE, namespace=plan.namespace)}
    for port in plan.ports:
        route = routes.get(f"{plan.name}-{port}", {})
        parents = route.get("status", {}).get("parents", [])
        reasons = [_unmet({**route, "status": parent}, "Accepted", "ResolvedRefs") for parent in parents]
        if None not in reasons:
            why = reasons[0] if reasons else "no controller has taken it yet"
            return EdgeState(False, f"TLSRoute {plan.name}-{port}: {why}")
    hosts = [each["value"] for each in gateway.get("status", {}).get("addresses", ())]
    listeners = {each["name"]: each["port"] for each in gateway["spec"]["listeners"]}
    doors = {port: _at(hosts, listeners[port]) for port in plan.ports if port in listeners}
    return EdgeState(True, None if hosts else f"Gateway {name} has no address yet", doors if hosts else {})


def _transport_server(cluster: Cluster, plan: Plan) -> EdgeState:
    route = cluster.get(TRANSPORT_SERVER, plan.name, namespace=plan.namespace)
    status = {} if route is None else route.get("status", {})
    if status.get("state") != "Valid":
        said = ": ".join(filter(None, (status.get("reason"), status.get("message"))))
        return EdgeState(False, f"TransportServer {plan.name}: {said or 'no controller has taken it yet'}")
    return EdgeState(True, "clients connect to the NGINX Ingress Controller, port 443")


def _unmet(thing: Object, *wanted: str) -> str | None:
    """Why a condition that is wanted is not met, if it is not. What was said of an earlier generation says nothing."""
    generation = int(thing["metadata"].get("generation", 0))
    for kind in wanted:
        found = condition(thing, kind)
        if int(found.get("observedGeneration", generation)) < generation:
            return f"not {kind} (the controller has not seen its change yet)"
        if found.get("status") != "True":
            said = ": ".join(filter(None, (found.get("reason"), found.get("message"))))
            return f"not {kind} ({said or 'no controller has said anything yet'})"
    return None


def _trouble(pod: Object) -> str | None:
    """What keeps a pod from running, if it says so."""
    status = pod.get("status", {})
    for container in status.get("containerStatuses", ()):
        waiting = container.get("state", {}).get("waiting", {})
        if waiting and waiting.get("reason") not in NOT_YET:
            return ": ".join(filter(None, (waiting.get("reason"), waiting.get("message"))))
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return str(scheduled.get("message") or scheduled.get("reason"))
    return None


def _service(cluster: Cluster, plan: Plan) -> Object:
    found = cluster.get(SERVICE, plan.name, namespace=plan.namespace)
    return {"spec": {"type": "ClusterIP", "ports": []}} if found is None else found


def _ports(service: Object) -> dict[str, Object]:
    return {port["name"]: port for port in service["spec"]["ports"]}


def _node_ports(cluster: Cluster, service: Object, nodes: set[str] | None = None) -> dict[str, tuple[str, ...]]:
    """By the addresses of these nodes, or of all; by a word in their place if we may not list nodes."""
    try:
        found = [node for node in cluster.list(NODE) if nodes is None or node["metadata"]["name"] in nodes]
        hosts = list(filter(None, map(_node_address, found)))
    except ForbiddenError:
        hosts = [ANY_NODE]
    return {name: _at(hosts, port["nodePort"]) for name, port in _ports(service).items() if "nodePort" in port}


def _node_address(node: Object) -> str | None:
    addresses = {each["type"]: each["address"] for each in node.get("status", {}).get("addresses", ())}
    found = addresses.get("ExternalIP") or addresses.get("InternalIP")
    return None if found is None else str(found)


def _at(hosts: list[str], port: int) -> tuple[str, ...]:
    return tuple(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts)
