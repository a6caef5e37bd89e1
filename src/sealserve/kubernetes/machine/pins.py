"""What is installed, where it comes from, and by what it is known.

Fingerprints and digests are pinned here: whoever controls a web server or the way to it cannot bring other software.
The first two keys are named alike by many public projects that install from the same addresses; kube-router's digest by
two that have nothing to do with each other. None was read from the servers themselves.
"""

from __future__ import annotations

from typing import Final

KUBERNETES_MINOR: Final = "1.37"
"""The newest minor version in November 2026. Its packages come from a repository of that version alone."""

KUBERNETES_REPOSITORY: Final = f"https://pkgs.k8s.io/core:/stable:/v{KUBERNETES_MINOR}/deb/"
KUBERNETES_KEY: Final = f"{KUBERNETES_REPOSITORY}Release.key"
KUBERNETES_FINGERPRINT: Final = "DE15B14486CD377B9E876E1A234654DA9A296436"
"""Of the Kubernetes project's key for packages (isv:kubernetes OBS Project), for all minor versions. Its validity was
prolonged before and ends on 29 December 2026; the fingerprint stays when it is prolonged again."""

KUBERNETES_PACKAGES: Final = ("kubeadm", "kubelet", "kubectl", "kubernetes-cni", "cri-tools")
HELD: Final = ("kubeadm", "kubelet", "kubectl")
"""Kubernetes is upgraded by kubeadm, one node at a time, and not by apt in passing."""

DOCKER_REPOSITORY: Final = "https://download.docker.com/linux"
DOCKER_FINGERPRINT: Final = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
"""Of Docker's key for packages, https://docs.docker.com/engine/install/."""

CONTAINERD_PACKAGE: Final = "containerd.io"
"""containerd 2 with runc, from Docker's repository: Kubernetes from 1.36 on wants containerd 2, which Debian 12 and 13
and Ubuntu 22.04 do not have."""

HELPERS: Final = ("ca-certificates", "curl", "gnupg", "conntrack", "ipset", "iptables")

KUBE_ROUTER: Final = (
    "docker.io/cloudnativelabs/kube-router@sha256:64da9a538d29e13780e256ce3897a52932a68657793bef009063bbeb2762146a"
)
"""Version 2.11.1, for several platforms. It enforces NetworkPolicies, and does nothing else here."""

SYSTEMS: Final = {
    ("ubuntu", "22.04"): "jammy",
    ("ubuntu", "24.04"): "noble",
    ("debian", "12"): "bookworm",
    ("debian", "13"): "trixie",
}
"""ID and VERSION_ID of /etc/os-release, and the name that repositories call the release by."""

POD_NETWORK: Final = "10.244.0.0/16"
NODE_NETWORK: Final = "10.244.0.0/24"
"""What the controller manager gives to the first node of :data:`POD_NETWORK`."""

SERVICE_NETWORK: Final = "10.96.0.0/12"
BRIDGE: Final = "sealserve0"
NETWORK: Final = "sealserve"
CONTAINERD_SOCKET: Final = "unix:///run/containerd/containerd.sock"
ADMIN_CONFIGURATION: Final = "/etc/kubernetes/admin.conf"
STATE: Final = "/var/lib/sealserve/kubernetes"
PORTS: Final = (2379, 2380, 6443, 10250, 10257, 10259)
