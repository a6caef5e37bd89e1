"""The cluster's one real node: containerd with runc, kubelet, kube-proxy, and a network of its pods."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from cluster.addresses import DOMAIN
from cluster.certificates import Authority
from cluster.components import Component
from cluster.sandbox import Sandbox

NODE = "sealserve-node"
"""Name of the node."""

DISK = 256 << 20
"""Bytes of the file system of kubelet's own files and of pods' volumes."""
LEAST_FREE = 64 << 20
"""Bytes that must be free there, or the node is short of disk, and its pods are evicted."""

_PLUGINS = "/usr/lib/cni"


def node(sandbox: Sandbox, programs: dict[str, Path], authority: Authority, *, pause: str) -> list[Component]:
    """The components, in the order in which they are started.

    :param programs: name → file. :param pause: reference of the image of pods' sandboxes.
    """
    addresses, directory = sandbox.addresses, sandbox.directory
    root = kubelet_root(directory)
    root.mkdir()
    # Of its own, so that a test can fill it, and this machine's may be as full as it likes. It takes memory when used.
    sandbox.run("mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0750", "kubelet", root)
    certificate = authority.issue(
        "kubelet", user=f"system:node:{NODE}", groups=["system:nodes"], hosts=[NODE, addresses.node]
    )
    proxy = authority.kubeconfig(authority.issue("kube-proxy", user="system:kube-proxy"), addresses.api)
    kubelet: list[str | Path] = [
        programs["kubelet"],
        f"--config={_write(directory / 'kubelet.yaml', _kubelet(sandbox, authority, certificate.certificate))}",
        f"--kubeconfig={authority.kubeconfig(certificate, addresses.api)}",
        f"--root-dir={root}",
        f"--hostname-override={NODE}",
        f"--node-ip={addresses.node}",
    ]
    proxy_configuration: dict[str, object] = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(proxy)},
        "mode": "iptables",
        "clusterCIDR": addresses.pods,
        "hostnameOverride": NODE,
        "iptables": {"minSyncPeriod": "0.1s"},
        # The kernel's limit for the whole machine is not this namespace's to change.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    proxy_file = _write(directory / "kube-proxy.yaml", proxy_configuration)
    (directory / "containerd.toml").write_text(_containerd(directory, programs, pause))
    _write(directory / "cni" / "10-pods.conflist", _network(sandbox))
    socket = directory / "run" / "containerd" / "containerd.sock"
    return [
        Component(
            sandbox,
            "containerd",
            [programs["containerd"], "--config", directory / "containerd.toml"],
            ready=socket.exists,
        ),
        Component(sandbox, "kubelet", kubelet),
        Component(sandbox, "kube-proxy", [programs["kube-proxy"], f"--config={proxy_file}"]),
    ]


def kubelet_root(directory: Path) -> Path:
    """Where the node's kubelet keeps its files, in a file system that is seen by the node alone."""
    return directory / "kubelet"


def _kubelet(sandbox: Sandbox, authority: Authority, certificate: Path) -> dict[str, object]:
    # Nowhere is also an answer: names outside of the cluster fail at once instead of after seconds.
    resolver = sandbox.directory / "resolv.conf"
    resolver.write_text(f"nameserver {sandbox.addresses.host}\n")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": str(authority.certificate)}, "anonymous": {"enabled": False}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(certificate),
        "tlsPrivateKeyFile": str(certificate.with_suffix(".key")),
        "clusterDomain": DOMAIN,
        "clusterDNS": [sandbox.addresses.dns],
        "resolvConf": str(resolver),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": sandbox.cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        # Changed ConfigMaps and Secrets are seen by pods within seconds instead of a minute.
        "syncFrequency": "2s",
        # How full this machine's disk is, where the images are, is not the cluster's business.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": str(LEAST_FREE),
            "imagefs.available": "1Mi",
        },
        "evictionPressureTransitionPeriod": "1s",  # in the place of five minutes
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        # Nobody could bring an image again, also not after a test that fills the disk.
        "imageMinimumGCAge": "24h",
    }


def _containerd(directory: Path, programs: dict[str, Path], pause: str) -> str:
    runtime = "plugins.'io.containerd.cri.v1.runtime'"
    runc = f"{runtime}.containerd.runtimes.runc"
    # https://github.com/containerd/containerd/blob/main/docs/cri/config.md, version 3
    return f"""\
version = 3
root = '{directory / "containerd"}'
state = '/run/containerd'
disabled_plugins = ['io.containerd.internal.v1.opt', 'io.containerd.nri.v1.nri']

[grpc]
address = '/run/containerd/containerd.sock'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{pause}'

[{runtime}]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
disable_apparmor = true

[{runtime}.cni]
bin_dirs = ['{_PLUGINS}']
conf_dir = '{directory / "cni"}'

[{runc}]
runtime_type = 'io.containerd.runc.v2'
runtime_path = '{programs["containerd-shim-runc-v2"]}'

[{runc}.options]
SystemdCgroup = false
"""


def _network(sandbox: Sandbox) -> dict[str, object]:
    """A veth pair for each pod, and a route: nothing is bridged, so that kube-proxy's rules see all that pods send."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": sandbox.addresses.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(sandbox.directory / "run" / "cni"),
    }
    plugins = [{"type": "ptp", "ipam": addresses}, {"type": "portmap", "capabilities": {"portMappings": True}}]
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}


def _write(path: Path, content: dict[str, object]) -> Path:
    """JSON is YAML too, and the network's plugins read JSON alone."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content) if path.suffix == ".conflist" else yaml.safe_dump(content))
    return path
