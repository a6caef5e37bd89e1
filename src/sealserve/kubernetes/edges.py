"""What leads clients to replicas, of every kind. None of them ends TLS: none has a key to do it with.

``TLSRoute`` and ``Gateway``: https://gateway-api.sigs.k8s.io/reference/spec/ (v1, Standard channel since 1.5).
``TransportServer``: https://docs.nginx.com/nginx-ingress-controller/configuration/transportserver-resource/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sealserve.deploy.images.layout import GRPC_PORT
from sealserve.deploy.kubernetes_section import EdgeKind
from sealserve.kubernetes.nginx_edge import nginx_objects
from sealserve.kubernetes.plan import Plan, Track
from sealserve.kubernetes.yaml_text import Comment, Object


def edge_objects(plan: Plan) -> list[Object]:
    """The objects of the edge that the deployment asks for; the Service or route that clients come by is the last."""
    kinds: Mapping[EdgeKind, Callable[[Plan], list[Object]]] = {
        "nginx": nginx_objects,
        "gateway": _gateway,
        "transport-server": _transport_server,
        "node-port": _node_port,
    }
    return kinds[plan.section.edge.kind](plan)


def callers(plan: Plan) -> list[object] | None:
    """Who may connect to replicas, as ``from`` of a NetworkPolicy; None for everybody."""
    edge = plan.section.edge
    if edge.kind == "nginx":
        return [{"podSelector": {"matchLabels": plan.labels("edge")}}]
    if edge.kind == "node-port":
        return None
    return [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": edge.controller_namespace}}}]


def _service(plan: Plan, track: Track) -> Object:
    spec = {
        "selector": plan.labels(track.component),
        "ports": [{"name": name, "port": port, "targetPort": name} for name, port in plan.ports.items()],
    }
    return plan.object("v1", "Service", track.shared_service, "edge", spec=spec)


def _gateway(plan: Plan) -> list[Object]:
    edge, own = plan.section.edge, plan.section.edge.gateway_class is not None
    host = plan.deployment.tls.server_name
    objects = [_service(plan, track) for track in plan.tracks]
    if own:
        listeners = [
            {
                "name": name,
                "port": port,
                "protocol": "TLS",
                "hostname": host,
                "tls": {"mode": "Passthrough"},
                "allowedRoutes": {"namespaces": {"from": "Same"}, "kinds": [{"kind": "TLSRoute"}]},
            }
            for name, port in plan.ports.items()
        ]
        spec = {"gatewayClassName": edge.gateway_class, "listeners": listeners}
        objects.append(plan.object("gateway.networking.k8s.io/v1", "Gateway", str(edge.gateway), "edge", spec=spec))
    for name, port in plan.ports.items():
        parent: Object = {"name": edge.gateway}
        if not own:
            parent["namespace"] = edge.controller_namespace
            parent[Comment("A listener for TLS passthrough, open to routes of this namespace.")] = None
        parent["sectionName"] = name
        route = {"parentRefs": [parent], "hostnames": [host], "rules": [{"backendRefs": _backends(plan, port)}]}
        objects.append(
            plan.object("gateway.networking.k8s.io/v1", "TLSRoute", f"{plan.name}-{name}", "edge", spec=route)
        )
    return objects


def _backends(plan: Plan, port: int) -> list[Object]:
    if plan.canary is None or plan.section.canary is None:
        return [{"name": plan.name, "port": port}]
    weight = plan.section.canary.weight
    return [
        {"name": track.shared_service, "port": port, "weight": share}
        for track, share in ((plan.stable, 100 - weight), (plan.canary, weight))
    ]


def _transport_server(plan: Plan) -> list[Object]:
    upstream = "replicas"
    spec = {
        "ingressClassName": plan.section.edge.ingress_class,
        Comment("Built into the controller that was started with -enable-tls-passthrough."): None,
        "listener": {"name": "tls-passthrough", "protocol": "TLS_PASSTHROUGH"},
        "host": plan.deployment.tls.server_name,
        "upstreams": [
            {
                "name": upstream,
                "service": plan.name,
                "port": GRPC_PORT,
                "maxFails": 1,
                "failTimeout": "1s",
                Comment("Below the number of connections that a replica takes."): None,
                "maxConns": 500,
            }
        ],
        Comment("gRPC channels stay open between calls."): None,
        "sessionParameters": {"timeout": "1h"},
        "upstreamParameters": {"connectTimeout": "1s", "nextUpstream": True},
        "action": {"pass": upstream},
    }
    return [
        _service(plan, plan.stable),
        plan.object("k8s.nginx.org/v1", "TransportServer", plan.name, "edge", spec=spec),
    ]


def _node_port(plan: Plan) -> list[Object]:
    edge = plan.section.edge
    numbers = {"grpc": edge.node_port, "rest": edge.rest_node_port}
    service = _service(plan, plan.stable)
    service["spec"] = {
        "type": "NodePort",
        **service["spec"],
        "ports": [{**port, "nodePort": numbers[port["name"]]} for port in service["spec"]["ports"]],
    }
    return [service]
