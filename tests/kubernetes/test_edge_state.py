"""Where clients connect, and whether they can."""

from __future__ import annotations

from typing import Any

from live_case import Case

from sealserve.kubernetes.live import kinds
from sealserve.kubernetes.live.edge_state import EdgeState, edge_state

_TRUE = [{"type": kind, "status": "True"} for kind in ("Accepted", "Programmed", "ResolvedRefs")]


def _state(case: Case, name: str, **section: Any) -> EdgeState:
    case.plan, objects = case.deployment(name, **section)
    case.apply(objects)
    return edge_state(case.cluster, case.plan)


def _node(case: Case, name: str = "node", **addresses: str) -> None:
    told = [{"type": kind, "address": address} for kind, address in addresses.items()]
    case.server.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"addresses": told}})


def test_a_load_balancers_address_is_given_and_nodes_until_there_is_one(case: Case) -> None:
    _node(case, InternalIP="192.0.2.9")
    _node(case, "without-nginx", InternalIP="192.0.2.8")  # it would take no connections
    assert _state(case, "nginx-simulated").ready
    service = case.server.get(kinds.SERVICE, "photos")
    for port, number in zip(service["spec"]["ports"], (31000, 31001), strict=True):
        port["nodePort"] = number
    service["status"] = {}
    state = edge_state(case.cluster, case.plan)
    assert "no load balancer's address yet" in str(state.reason)
    assert state.doors == {"grpc": ("192.0.2.9:31000",), "rest": ("192.0.2.9:31001",)}
    service["status"] = {"loadBalancer": {"ingress": [{"ip": "2001:db8::1"}, {"hostname": "lb.example"}]}}
    state = edge_state(case.cluster, case.plan)
    assert (state.reason, state.doors["grpc"]) == (None, ("[2001:db8::1]:8500", "lb.example:8500"))


def test_nginx_that_has_no_image_says_so(case: Case) -> None:
    waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
    case.server.edge_pod = {"containerStatuses": [waiting]}
    assert _state(case, "nginx-simulated").reason == "nginx: 0 of 2 pods are ready (ErrImagePull: not found)"


def test_a_port_of_every_node_is_told_by_word_where_nodes_are_not_ours_to_list(case: Case) -> None:
    _node(case, InternalIP="10.0.0.1", ExternalIP="192.0.2.9")
    assert _state(case, "node-port-simulated").doors == {"grpc": ("192.0.2.9:30500",)}
    case.server.denied = {"nodes"}
    assert edge_state(case.cluster, case.plan).doors == {"grpc": ("NODE:30500",)}


def test_a_gateway_is_ready_when_it_and_its_routes_were_taken(case: Case) -> None:
    case.server.put(
        {"apiVersion": kinds.GATEWAY_CLASS.api_version, "kind": "GatewayClass", "metadata": {"name": "nginx"}}
    )
    state = _state(case, "gateway-sgx")
    assert state == EdgeState(False, "Gateway photos: not Accepted (no controller has said anything yet)")
    case.server.get(kinds.GATEWAY, "photos")["status"] = {"conditions": _TRUE, "addresses": [{"value": "192.0.2.1"}]}
    assert "TLSRoute photos-grpc: no controller has taken it yet" in str(edge_state(case.cluster, case.plan).reason)
    refused = {"type": "Accepted", "status": "False", "reason": "NoMatchingListener", "message": "none"}
    for name in ("photos-grpc", "photos-rest"):
        case.server.get(kinds.TLS_ROUTE, name)["status"] = {"parents": [{"conditions": [refused]}]}
    assert "not Accepted (NoMatchingListener: none)" in str(edge_state(case.cluster, case.plan).reason)
    for name in ("photos-grpc", "photos-rest"):
        case.server.get(kinds.TLS_ROUTE, name)["status"] = {"parents": [{"conditions": _TRUE}]}
    state = edge_state(case.cluster, case.plan)
    assert (state.ready, state.doors) == (True, {"grpc": ("192.0.2.1:8500",), "rest": ("192.0.2.1:8501",)})
    case.server.get(kinds.TLS_ROUTE, "photos-rest")["metadata"]["generation"] = 2
    case.server.get(kinds.TLS_ROUTE, "photos-rest")["status"] = {
        "parents": [{"conditions": [{**each, "observedGeneration": 1} for each in _TRUE]}]
    }
    assert "photos-rest: not Accepted (the controller has not seen its change yet)" in str(
        edge_state(case.cluster, case.plan).reason
    )


def test_a_gateway_of_others_that_is_not_there_is_named(case: Case) -> None:
    assert "there is no Gateway shared in the namespace traefik" in str(_state(case, "gateway-simulated").reason)


def test_a_transport_server_says_why_it_was_not_taken(case: Case) -> None:
    assert not _state(case, "transport-server-sgx").ready
    route = case.server.get(kinds.TRANSPORT_SERVER, "photos")
    route["status"] = {"state": "Invalid", "reason": "Rejected", "message": "no such listener"}
    assert edge_state(case.cluster, case.plan).reason == "TransportServer photos: Rejected: no such listener"
    route["status"] = {"state": "Valid"}
    assert edge_state(case.cluster, case.plan).ready
