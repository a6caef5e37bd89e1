"""What leads clients to replicas: whether the cluster has what the chosen kind of edge needs."""

from __future__ import annotations

from collections.abc import Iterator

from sealserve.deploy.doctor import Finding
from sealserve.kubernetes.live.doctor.question import DAEMON_SET, Question, condition
from sealserve.kubernetes.live.kinds import (
    CUSTOM_RESOURCE,
    DEPLOYMENT,
    GATEWAY,
    GATEWAY_CLASS,
    TLS_ROUTE,
    TRANSPORT_SERVER,
    Kind,
    kind_of,
    names,
)
from sealserve.kubernetes.yaml_text import Object

_INGRESS_CLASS = Kind("networking.k8s.io/v1", "IngressClass", "ingressclasses", namespaced=False)
_PASSTHROUGH = "enable-tls-passthrough"
_NODE_PORTS = range(30000, 32768)
"""The API server's default for ``--service-node-port-range``."""

# What hands out addresses for Services of type LoadBalancer: the beginning of nodes' providerID, or a DaemonSet.
_CLOUDS = ("aws", "azure", "gce", "openstack", "ibm", "oci", "digitalocean", "hcloud", "linode", "alicloud", "qcloud")
_BALANCERS = {"speaker": "MetalLB", "metallb-speaker": "MetalLB", "kube-vip-ds": "kube-vip"}


def examine_kinds(question: Question) -> Iterator[Finding]:
    """Kinds of objects that others bring to a cluster."""
    for kind in dict.fromkeys(map(kind_of, question.objects)):
        if kind.comes_with is not None and kind.plural not in question.resources_of(kind.api_version):
            served = _served(question, kind)
            text = f"the cluster does not serve {kind} {kind.api_version}"
            text += f", only {' and '.join(served)}" if served else ""
            yield Finding("kinds", "problem", text, kind.remedy)


def examine_edge(question: Question) -> Iterator[Finding]:
    """The edge of the chosen kind."""
    match question.plan.section.edge.kind:
        case "nginx":
            yield from _nginx(question)
        case "gateway":
            yield from _gateway(question)
        case "transport-server":
            yield from _transport_server(question)
        case "node-port":
            yield from _node_port(question)


def _served(question: Question, kind: Kind) -> list[str]:
    group = kind.api_version.rpartition("/")[0]
    found = question.cluster.get(CUSTOM_RESOURCE, f"{kind.plural}.{group}")
    versions = [] if found is None else found["spec"]["versions"]
    return [version["name"] for version in versions if version.get("served")]


def _nginx(question: Question) -> Iterator[Finding]:
    kind = question.plan.section.edge.service
    if kind != "LoadBalancer":
        yield Finding("edge", "ok", f"nginx of our own, by a Service of type {kind}: any cluster has that")
        return
    text = "nginx of our own, by a load balancer"
    if (who := _balancer(question)) is not None:
        yield Finding("edge", "ok", f"{text}: {who} gives it an address")
        return
    mend = "Set kubernetes.edge.service: NodePort, or install a load balancer such as MetalLB."
    yield Finding("edge", "warning", f"{text}: nobody is known here who would give it an address", mend)


def _balancer(question: Question) -> str | None:
    for service in question.services:
        if service["spec"].get("type") == "LoadBalancer" and service.get("status", {}).get("loadBalancer", {}).get(
            "ingress"
        ):
            return f"what gave one to {service['metadata']['namespace']}/{service['metadata']['name']}"
    for daemon in question.daemons:
        name = daemon["metadata"]["name"]
        if name in _BALANCERS:
            return _BALANCERS[name]
        if name.startswith("svclb-"):
            return "k3s"
    for node in question.nodes:
        provider = str(node.get("spec", {}).get("providerID", "")).partition("://")[0]
        if provider in _CLOUDS:
            return f"the cloud ({provider})"
        if provider == "k3s":
            return "k3s"
    return None


def _gateway(question: Question) -> Iterator[Finding]:
    if GATEWAY_CLASS.plural not in question.resources_of(GATEWAY_CLASS.api_version):
        yield Finding("edge", "problem", "the Gateway API is not installed", f"Install {GATEWAY_CLASS.comes_with}.")
        return
    edge = question.plan.section.edge
    name = edge.gateway_class
    if name is None:
        gateway = question.cluster.get(GATEWAY, str(edge.gateway), namespace=edge.controller_namespace)
        if gateway is None:
            text = f"there is no Gateway {edge.controller_namespace}/{edge.gateway}"
            mend = "Make it, or set kubernetes.edge.gateway_class, and one is made."
            yield Finding("edge", "problem", text, mend)
            return
        yield from _listeners(question, gateway)
        name = gateway["spec"]["gatewayClassName"]
    found = question.cluster.get(GATEWAY_CLASS, name)
    if found is None:
        there = [one["metadata"]["name"] for one in question.cluster.list(GATEWAY_CLASS)]
        mend = f"There is {names(there)}." if there else "Install a controller that brings one."
        yield Finding("edge", "problem", f"there is no GatewayClass {name}", mend)
        return
    controller = found["spec"]["controllerName"]
    if condition(found, "Accepted") == "True":
        yield Finding("edge", "ok", f"the GatewayClass {name} is served by {controller}")
    else:
        text = f"no controller has accepted the GatewayClass {name} ({controller})"
        yield Finding("edge", "problem", text, f"Is {controller} installed, and does it run?")
    served = _served(question, TLS_ROUTE)
    if served:
        yield Finding("tls-routes", "ok", f"TLSRoute is there as {' and '.join(served)}")


def _listeners(question: Question, gateway: Object) -> Iterator[Finding]:
    listeners = {one["name"]: one for one in gateway["spec"]["listeners"]}
    for name in question.plan.ports:
        listener = listeners.get(name)
        where = f"{gateway['metadata']['namespace']}/{gateway['metadata']['name']}"
        mend = f"Give it a listener {name} with protocol: TLS and tls.mode: Passthrough."
        if listener is None:
            yield Finding("listeners", "problem", f"the Gateway {where} has no listener {name}", mend)
        elif listener.get("tls", {}).get("mode") != "Passthrough":
            text = f"the listener {name} of {where} ends TLS, which is for replicas to do"
            yield Finding("listeners", "problem", text, mend)


def _transport_server(question: Question) -> Iterator[Finding]:
    if TRANSPORT_SERVER.plural not in question.resources_of(TRANSPORT_SERVER.api_version):
        text = f"{TRANSPORT_SERVER.comes_with} is not installed"
        yield Finding("edge", "problem", text, "Install it, or choose another kubernetes.edge.kind.")
        return
    edge = question.plan.section.edge
    if question.cluster.get(_INGRESS_CLASS, edge.ingress_class) is None:
        text = f"there is no IngressClass {edge.ingress_class}"
        yield Finding("edge", "problem", text, "Set kubernetes.edge.ingress_class to the controller's.")
        return
    workloads = [
        found
        for kind in (DEPLOYMENT, DAEMON_SET)
        for found in question.cluster.list(kind, namespace=edge.controller_namespace)
    ]
    arguments = [
        str(argument)
        for found in workloads
        for container in found["spec"]["template"]["spec"]["containers"]
        for argument in container.get("args") or ()
    ]
    if any(argument.lstrip("-") in (_PASSTHROUGH, f"{_PASSTHROUGH}=true") for argument in arguments):
        yield Finding("edge", "ok", f"the controller in {edge.controller_namespace} passes TLS through")
        return
    text = f"no controller in {edge.controller_namespace} was started with -{_PASSTHROUGH}"
    yield Finding("edge", "problem", text, f"Add -{_PASSTHROUGH} to its arguments.")


def _node_port(question: Question) -> Iterator[Finding]:
    own = {(question.plan.namespace, found["metadata"]["name"]) for found in question.objects}
    taken = {
        port["nodePort"]: f"{service['metadata']['namespace']}/{service['metadata']['name']}"
        for service in question.services
        if (service["metadata"]["namespace"], service["metadata"]["name"]) not in own
        for port in service["spec"].get("ports") or ()
        if port.get("nodePort")
    }
    edge = question.plan.section.edge
    wanted = {"node_port": edge.node_port, **({"rest_node_port": edge.rest_node_port} if question.plan.rest else {})}
    fine = True
    for setting, port in wanted.items():
        if port in taken:
            fine = False
            text = f"port {port} of the nodes is that of the Service {taken[port]}"
            yield Finding("edge", "problem", text, f"Set kubernetes.edge.{setting} to another port.")
        elif port not in _NODE_PORTS:
            fine = False
            text = f"port {port} is outside of what API servers give away by default (30000 to 32767)"
            yield Finding("edge", "warning", text, f"Set kubernetes.edge.{setting} to one of these.")
    if fine:
        ports = " and ".join(map(str, wanted.values()))
        yield Finding("edge", "ok", f"no other Service has the nodes' port{'s' if len(wanted) > 1 else ''} {ports}")
