"""The addresses of a cluster. Several clusters on one machine have different ones."""

from __future__ import annotations

from dataclasses import dataclass

SLOTS = 100
"""How many clusters can be on one machine."""

DOMAIN = "cluster.local"


@dataclass(frozen=True)
class Addresses:
    """The addresses of one cluster, from 198.18.0.0/15: a range for tests (RFC 2544) that no network is made of.

    Pods and Services can be reached from this machine as well: their ranges are routed to the node.
    """

    slot: int

    @property
    def host(self) -> str:
        """Of this machine, as the node and the pods see it: what is outside of the cluster listens here."""
        return f"198.18.{self.slot}.1"

    @property
    def node(self) -> str:
        return f"198.18.{self.slot}.2"

    @property
    def link(self) -> str:
        """Name of the network interface of this machine that leads to the node."""
        return f"sealserve-k{self.slot}"

    @property
    def pods(self) -> str:
        return f"198.19.{self.slot}.0/24"

    @property
    def services(self) -> str:
        return f"198.18.{128 + self.slot}.0/24"

    @property
    def api_service(self) -> str:
        """ClusterIP of the API server."""
        return f"198.18.{128 + self.slot}.1"

    @property
    def dns(self) -> str:
        """ClusterIP of CoreDNS."""
        return f"198.18.{128 + self.slot}.10"

    @property
    def api(self) -> str:
        """URL of the API server."""
        return f"https://{self.node}:6443"
