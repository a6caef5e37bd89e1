"""The values with which ``sealserve init --kubernetes`` fills in a deployment for a first cluster."""

from __future__ import annotations

import socket
from typing import Any

from sealserve.addresses import Address, parse_address
from sealserve.deploy.image_section import UNKNOWN_DIGEST
from sealserve.errors import InputError

NO_REGISTRY = "sealserve.local"
"""Where images are that no registry has: nodes get them as archives."""

_PORT = 4433
_NOWHERE = "192.0.2.1"  # for documentation (RFC 5737): a route to it is the way out of this machine


def cluster_values(name: str, *, image: str | None = None, broker: str | None = None) -> dict[str, Any]:
    """Dotted name of a setting → value, for :func:`~sealserve.deploy.template.render_template`: simulated replicas
    on a cluster of any kind, the key broker on this machine.

    :param image: name of the image, with its registry; one that no registry has, if not given.
    :param broker: address at which pods find this machine, with or without port; one of its own, if not given.
    :raises InputError: there is none.
    """
    address = _address(broker)
    repository, colon, tag = (image or f"{NO_REGISTRY}/{name}:1").rpartition(":")
    if not colon or "/" in tag:
        repository, tag = image or name, "1"
    return {
        "broker.listen": Address("0.0.0.0", address.port),  # noqa: S104 - who may have keys is decided by evidence
        # kubelet asks replicas over REST whether they are ready.
        "gateway.rest_listen": Address("127.0.0.1", 8501),
        "image.name": f"{repository}:{tag}",
        "image.base": f"ubuntu:24.04@{UNKNOWN_DIGEST}",
        "image.brokers": [f"{name}-broker.{name}.svc:{address.port}"],
        "kubernetes.namespace": name,
        "kubernetes.image": f"{repository}-simulated:{tag}@{UNKNOWN_DIGEST}",
        "kubernetes.sealed_model.image": f"{repository}-model:{tag}@{UNKNOWN_DIGEST}",
        "kubernetes.broker": str(address),
        "kubernetes.edge.kind": "node-port",
        "kubernetes.resources.cpu": "500m",  # two replicas fit beside the cluster's own pods on two CPUs
    }


def _address(broker: str | None) -> Address:
    if broker is None:
        return Address(_own_address(), _PORT)
    try:
        return parse_address(broker)
    except InputError:
        return parse_address(f"[{broker}]:{_PORT}" if broker.count(":") > 1 else f"{broker}:{_PORT}")


def _own_address() -> str:
    """The address that this machine goes out with. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_NOWHERE, 9))
        except OSError:
            raise InputError(
                "this machine has no address that pods could find its key broker at",
                hint="Say where they find it, with --broker.",
            ) from None
        return str(probe.getsockname()[0])
