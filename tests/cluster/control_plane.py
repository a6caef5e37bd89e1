"""etcd, the API server, the controller manager and the scheduler: what they are started with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster.addresses import DOMAIN, Addresses
from cluster.certificates import Authority
from cluster.components import Component
from cluster.sandbox import Sandbox

_ETCD = "http://127.0.0.1:2379"  # nobody else is in this network namespace


def control_plane(
    sandbox: Sandbox, programs: dict[str, Path], authority: Authority, *, api_ready: Callable[[], bool]
) -> list[Component]:
    """The components, in the order in which they are started.

    :param programs: name → file. :param api_ready: whether the API server answers.
    """
    addresses = sandbox.addresses
    accounts = authority.service_account_keys()

    def kubeconfig(name: str) -> Path:
        return authority.kubeconfig(authority.issue(name, user=f"system:{name}"), addresses.api)

    etcd: list[str | Path] = [
        programs["etcd"],
        f"--data-dir={sandbox.directory / 'etcd'}",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",  # nothing here has to outlive the machine
        "--log-level=warn",
    ]
    server = authority.issue("kube-apiserver", hosts=_names_of_api(addresses))
    kubelet_client = authority.issue("kubelet-client", groups=["system:masters"])
    apiserver: list[str | Path] = [
        programs["kube-apiserver"],
        f"--etcd-servers={_ETCD}",
        f"--advertise-address={addresses.node}",
        "--secure-port=6443",
        f"--client-ca-file={authority.certificate}",
        f"--tls-cert-file={server.certificate}",
        f"--tls-private-key-file={server.key}",
        f"--kubelet-certificate-authority={authority.certificate}",
        f"--kubelet-client-certificate={kubelet_client.certificate}",
        f"--kubelet-client-key={kubelet_client.key}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-cluster-ip-range={addresses.services}",
        f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
        f"--service-account-key-file={accounts.certificate}",
        f"--service-account-signing-key-file={accounts.key}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
    ]
    controllers: list[str | Path] = [
        programs["kube-controller-manager"],
        f"--kubeconfig={kubeconfig('kube-controller-manager')}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        f"--root-ca-file={authority.certificate}",
        f"--service-account-private-key-file={accounts.key}",
        f"--cluster-signing-cert-file={authority.certificate}",
        f"--cluster-signing-key-file={authority.pair.key}",
    ]
    scheduler: list[str | Path] = [
        programs["kube-scheduler"],
        f"--kubeconfig={kubeconfig('kube-scheduler')}",
        "--leader-elect=false",
    ]
    return [
        Component(sandbox, "etcd", etcd),
        Component(sandbox, "kube-apiserver", apiserver, ready=api_ready),
        Component(sandbox, "kube-controller-manager", controllers),
        Component(sandbox, "kube-scheduler", scheduler),
    ]


def _names_of_api(addresses: Addresses) -> list[str]:
    service = "kubernetes.default.svc"
    return ["kubernetes", "kubernetes.default", service, f"{service}.{DOMAIN}", addresses.api_service, addresses.node]
