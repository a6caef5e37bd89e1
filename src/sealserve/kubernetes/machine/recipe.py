"""The steps that make one machine a cluster, in their order; taken back they are in the reverse order.

Source of what has to be done: https://kubernetes.io/docs/setup/production-environment/tools/kubeadm/ and
https://github.com/containerd/containerd/blob/main/docs/cri/config.md.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from sealserve.kubernetes.machine import pins
from sealserve.kubernetes.machine.cluster import InitCluster
from sealserve.kubernetes.machine.host import Host
from sealserve.kubernetes.machine.keys import signing_key
from sealserve.kubernetes.machine.steps import (
    InstallPackages,
    LoadModules,
    RemoveAfterwards,
    RunCommands,
    SetKernelSettings,
    Step,
    WriteFile,
)

_KUBEADM_FILE = f"{pins.STATE}/kubeadm.yaml"
_SOURCES = "/etc/apt/sources.list.d"
_PREFERENCES = "/etc/apt/preferences.d"
_KEYS = "/etc/apt/keyrings"
_KUBECTL = ("kubectl", "--kubeconfig", pins.ADMIN_CONFIGURATION)
_FILLED = ("/etc/kubernetes", "/var/lib/etcd", "/var/lib/kubelet", "/etc/cni", "/opt/cni", "/var/lib/cni")
_CONTAINERD_DATA = ("/etc/containerd", "/var/lib/containerd")

_CONTAINERD = b"""\
# Written by `sealserve k8s install`. systemd is the one that divides the machine among services and pods.
version = 3

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'

  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    SystemdCgroup = true
"""


@dataclass(frozen=True)
class Choices:
    """What decides which steps there are; the journal keeps it.

    :ivar system: ID of /etc/os-release. :ivar codename: of its release.
    :ivar node: what the one node is called.
    :ivar own_containerd: whether containerd.io, and Docker's repository, were not here before.
    :ivar kubeconfig: file of the user that gets the means to reach the cluster. :ivar owner: user and group.
    :ivar sgx_plugin: image of Intel's device plugin, pinned. :ivar epc: bytes of protected memory.
    """

    system: str
    codename: str
    node: str
    own_containerd: bool
    kubeconfig: str
    owner: tuple[int, int] | None = None
    sgx_plugin: str | None = None
    epc: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Choices:
        owner = content["owner"]
        return cls(**{**content, "owner": None if owner is None else (owner[0], owner[1])})


def steps(choices: Choices) -> list[Step]:
    """All steps."""
    return [
        InstallPackages("helpers", "Tools of the distribution", pins.HELPERS),
        *_containerd(choices),
        *_kubernetes(),
        *_kernel(),
        *_cluster(choices),
        *(_sgx(choices, choices.sgx_plugin) if choices.sgx_plugin is not None else ()),
    ]


def _containerd(choices: Choices) -> list[Step]:
    config = WriteFile("containerd-settings", "Settings of containerd", "/etc/containerd/config.toml", _CONTAINERD)
    restart = ("systemctl", "restart", "containerd")
    if not choices.own_containerd:
        return [
            # Undone after the file is as it was.
            RunCommands("containerd-as-before", "(taken back: containerd with its settings of before)", (), (restart,)),
            config,
            RunCommands("containerd-restart", "containerd with these settings", (restart,)),
        ]
    key, url = f"{_KEYS}/sealserve-docker.gpg", f"{pins.DOCKER_REPOSITORY}/{choices.system}"
    return [
        _key("docker-key", "The key of Docker's packages", key, f"{url}/gpg", pins.DOCKER_FINGERPRINT),
        WriteFile(
            "docker-origin",
            "containerd from Docker's repository alone",
            f"{_PREFERENCES}/00-sealserve-docker.pref",
            _preferences(url, (pins.CONTAINERD_PACKAGE,)),
        ),
        WriteFile(
            "docker-repository",
            "Docker's repository, for containerd",
            f"{_SOURCES}/sealserve-docker.sources",
            _sources(url, choices.codename, "stable", key),
        ),
        RemoveAfterwards("containerd-data", "What containerd will fill", _CONTAINERD_DATA),
        InstallPackages("containerd", "containerd and runc", (pins.CONTAINERD_PACKAGE,)),
        config,
        RunCommands("containerd-restart", "containerd with these settings", (restart,)),
    ]


def _kubernetes() -> list[Step]:
    key = f"{_KEYS}/sealserve-kubernetes.gpg"
    return [
        _key(
            "kubernetes-key",
            "The key of Kubernetes' packages",
            key,
            pins.KUBERNETES_KEY,
            pins.KUBERNETES_FINGERPRINT,
        ),
        WriteFile(
            "kubernetes-origin",
            "Kubernetes from its own repository alone",
            f"{_PREFERENCES}/00-sealserve-kubernetes.pref",
            _preferences(pins.KUBERNETES_REPOSITORY, pins.KUBERNETES_PACKAGES),
        ),
        WriteFile(
            "kubernetes-repository",
            f"The repository of Kubernetes {pins.KUBERNETES_MINOR}",
            f"{_SOURCES}/sealserve-kubernetes.sources",
            _sources(pins.KUBERNETES_REPOSITORY, "/", "", key),
        ),
        RemoveAfterwards("kubernetes-data", "What Kubernetes will fill", _FILLED),
        InstallPackages(
            "kubernetes", f"kubeadm, kubelet and kubectl {pins.KUBERNETES_MINOR}", pins.KUBERNETES_PACKAGES
        ),
        RunCommands(
            "hold",
            "No upgrade in passing",
            (("apt-mark", "hold", *pins.HELD),),
            (("apt-mark", "unhold", *pins.HELD),),
        ),
        RunCommands(
            "kubelet-service",
            "kubelet at each start",
            (("systemctl", "enable", "kubelet"),),
            (("systemctl", "disable", "--now", "kubelet"),),
        ),
    ]


def _kernel() -> list[Step]:
    modules = ("overlay", "br_netfilter")
    settings = {
        "net.ipv4.ip_forward": "1",
        "net.bridge.bridge-nf-call-iptables": "1",
        "net.bridge.bridge-nf-call-ip6tables": "1",
    }
    return [
        WriteFile(
            "modules-file",
            "Modules at each start",
            "/etc/modules-load.d/sealserve-kubernetes.conf",
            "".join(f"{module}\n" for module in modules).encode(),
        ),
        LoadModules("modules", "Modules now", modules),
        WriteFile(
            "kernel-settings-file",
            "Forwarding, at each start",
            "/etc/sysctl.d/90-sealserve-kubernetes.conf",
            "".join(f"{key} = {value}\n" for key, value in settings.items()).encode(),
        ),
        SetKernelSettings("kernel-settings", "Forwarding, now", settings),
    ]


def _cluster(choices: Choices) -> list[Step]:
    bridge = {
        "type": "bridge",
        "bridge": pins.BRIDGE,
        "isDefaultGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": pins.NODE_NETWORK}]]},
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    network = {"cniVersion": "1.0.0", "name": pins.NETWORK, "plugins": [bridge, ports]}
    return [
        WriteFile(
            "network",
            "The pods' network: a bridge of this machine",
            "/etc/cni/net.d/10-sealserve.conflist",
            (json.dumps(network, indent=1) + "\n").encode(),
        ),
        WriteFile(
            "kubeadm-settings",
            "Settings of the cluster",
            _KUBEADM_FILE,
            lambda host: _kubeadm(host, choices.node),
            source="the version of kubeadm; pods in "
            f"{pins.POD_NETWORK}; no taint, so that this one machine runs pods; swap allowed, and not for pods",
        ),
        InitCluster("cluster", "The cluster", _KUBEADM_FILE),
        RunCommands(
            "policies",
            "kube-router, which enforces NetworkPolicies",
            ((*_KUBECTL, "apply", "--server-side", "-f", "-"),),
            given=_manifest("kube-router", pins.KUBE_ROUTER),
        ),
        WriteFile(
            "kubeconfig",
            "The means to reach it, for you",
            choices.kubeconfig,
            lambda host: host.path(pins.ADMIN_CONFIGURATION).read_bytes(),
            source=f"a copy of {pins.ADMIN_CONFIGURATION}: whoever has it rules the cluster",
            mode=0o600,
            owner=choices.owner,
        ),
        RunCommands(
            "ready",
            "Until it is ready",
            (
                (*_KUBECTL, "wait", "--for=condition=Ready", "node", "--all", "--timeout=300s"),
                (*_KUBECTL, "-n", "kube-system", "rollout", "status", "daemonset/kube-router", "--timeout=300s"),
                (*_KUBECTL, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=300s"),
            ),
        ),
    ]


def _sgx(choices: Choices, image: str) -> list[Step]:
    patch = json.dumps({"status": {"capacity": {"sgx.intel.com/epc": str(choices.epc)}}})
    register = (*_KUBECTL, "patch", "node", choices.node, "--subresource=status", "--type=merge", f"--patch={patch}")
    return [
        RunCommands(
            "sgx-plugin",
            "Intel's device plugin for SGX",
            ((*_KUBECTL, "apply", "--server-side", "-f", "-"),),
            given=_manifest("sgx-plugin", image),
        ),
        RunCommands("sgx-memory", "How much protected memory there is", (register,)),
    ]


def _key(name: str, title: str, path: str, url: str, fingerprint: str) -> WriteFile:
    source = f"what {url} has, if its fingerprint is {fingerprint}"
    return WriteFile(name, title, path, signing_key(url, fingerprint), source=source)


def _sources(url: str, suite: str, components: str, key: str) -> bytes:
    """A source of apt (deb822), which takes what this key signed and nothing else."""
    lines = ["Types: deb", f"URIs: {url}", f"Suites: {suite}", f"Components: {components}", "Architectures: amd64"]
    lines = [line for line in lines if not line.endswith(": ")]
    return "\n".join([*lines, f"Signed-By: {key}", ""]).encode()


def _preferences(url: str, packages: tuple[str, ...]) -> bytes:
    """What has apt take packages from one server and from no other, and other packages rather from elsewhere.

    Of records that name a package the first one that fits decides (apt_preferences(5)). By the server, which apt knows
    itself: what a repository says of its own origin may be anything.
    """
    names, server = " ".join(packages), urlsplit(url).hostname
    return f"""\
Explanation: Written by `sealserve k8s install`.
Package: {names}
Pin: origin "{server}"
Pin-Priority: 500

Package: {names}
Pin: release *
Pin-Priority: -1

Package: *
Pin: origin "{server}"
Pin-Priority: 100
""".encode()


def _kubeadm(host: Host, node: str) -> bytes:
    version = host.read("kubeadm", "version", "-o", "short").strip()
    return f"""\
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
nodeRegistration:
  name: {node}
  criSocket: {pins.CONTAINERD_SOCKET}
  taints: []
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: {version}
networking:
  podSubnet: {pins.POD_NETWORK}
  serviceSubnet: {pins.SERVICE_NETWORK}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: systemd
failSwapOn: false
memorySwap:
  swapBehavior: NoSwap
""".encode()


def _manifest(name: str, image: str) -> str:
    text = resources.files(__package__).joinpath("files", f"{name}.yaml").read_text(encoding="utf-8")
    return text.replace("@@image@@", image)
