"""The step that makes the cluster, by kubeadm, and takes it away with what it left in the kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sealserve.kubernetes.machine import pins
from sealserve.kubernetes.machine.host import Host
from sealserve.kubernetes.machine.journal import Record

# Chains and rules of kubelet, kube-proxy and kube-router all have one of these in them; those of the bridge's
# masquerading have the network's name, as a comment, and chains of their own.
_OURS = re.compile(rf"KUBE-|kube-router|\b{pins.BRIDGE}\b")
_MASQUERADE = re.compile(rf'name: \\?"{pins.NETWORK}\\?"')
_CHAIN = re.compile(r"\b(CNI-[A-Za-z0-9]+)\b")
_SETS = re.compile(r"^(?:inet6:)?(?:KUBE-|kube-router-)\S*$", re.MULTILINE)
_RESET = ("kubeadm", "reset", "--force", "--cri-socket", pins.CONTAINERD_SOCKET)


@dataclass(frozen=True)
class InitCluster:
    """kubeadm's init, and its reset."""

    name: str
    title: str
    configuration: str

    def shown(self) -> list[str]:
        return [f"kubeadm init --config {self.configuration}"]

    def is_done(self, host: Host, record: Record) -> bool:
        return record.done and host.path(pins.ADMIN_CONFIGURATION).exists()

    def apply(self, host: Host, record: Record) -> None:
        if record.get("started"):  # and was interrupted: kubeadm goes on with nothing that is half there
            host.do(*_RESET)
        record.save(started=True)
        host.do("kubeadm", "init", "--config", str(host.path(self.configuration)))

    def undo(self, host: Host, record: Record) -> str | None:
        if record.get("started") and host.ask("kubeadm", "version", "-o", "short") is not None:
            host.do(*_RESET)
        clean_kernel(host)
        return None


def clean_kernel(host: Host) -> None:
    """Take away the bridge, rules and sets that a cluster leaves behind; rules of others stay."""
    host.ask("ip", "link", "delete", pins.BRIDGE)
    for family in ("iptables", "ip6tables"):
        rules = host.ask(f"{family}-save")
        if rules is not None and (kept := without_cluster(rules)) != rules:
            host.do(f"{family}-restore", given=kept)
    for name in _SETS.findall(host.ask("ipset", "list", "-name") or ""):
        host.ask("ipset", "destroy", name)
    for family in ("ip", "ip6"):  # kube-proxy's, where it works with nftables
        host.ask("nft", "delete", "table", family, "kube-proxy")


def without_cluster(rules: str) -> str:
    """What ``iptables-save`` printed, without the cluster's chains and rules."""
    lines = rules.splitlines()
    chains = {chain for line in lines if _MASQUERADE.search(line) for chain in _CHAIN.findall(line)}
    kept = [
        line
        for line in lines
        if not _OURS.search(line) and not _MASQUERADE.search(line) and chains.isdisjoint(_CHAIN.findall(line))
    ]
    return "\n".join(kept) + "\n"
