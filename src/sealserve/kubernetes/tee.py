"""What replicas need of a cluster for what they run in: simulated enclaves, or SGX.

SGX: names and behaviour of Intel's device plugin and its admission webhook
(https://github.com/intel/intel-device-plugins-for-kubernetes, ``cmd/sgx_plugin`` and ``pkg/webhooks/sgx``), and of the
plugin of Alibaba Cloud's ACK, from the cloud profile.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sealserve.deploy.clouds import load_profile
from sealserve.deploy.clouds.profile import Kubernetes
from sealserve.deploy.images.layout import (
    GRPC_PORT,
    REST_PORT,
    SEALED_DIRECTORY,
    STOP_GRACE,
    TLS_DIRECTORY,
)
from sealserve.deploy.images.programs import connection_age
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.pods import container_security
from sealserve.kubernetes.yaml_text import Comment, Object

_EVERYWHERE = "0.0.0.0"  # noqa: S104 - of the pod
_CONFIGURATION = "/etc/sealserve"
_PLATFORM = "/platform"
_PLATFORM_SECRET = "/platform-secret"  # noqa: S105 - a path
PLATFORM_KEYS = ("pck.key", "attestation.key", "pck-chain.pem")
_INTEL = Kubernetes(
    epc="sgx.intel.com/epc",
    epc_in_mib=False,
    devices=("sgx.intel.com/enclave", "sgx.intel.com/provision"),
    source="intel-device-plugins",
)
_MIB = 1 << 20


@dataclass(frozen=True)
class TeeParts:
    """What a replica's pod has beside what every replica's has.

    :ivar arguments: of the container; its image's if None. :ivar resources: name → quantity, asked for and held to.
    :ivar tolerations: taints of nodes that the pod may run on nevertheless.
    :ivar mounts: ``volumeMounts`` of the container. :ivar objects: that the pod needs beside itself.
    :ivar sealed_mount: where the container sees the sealed model.
    """

    sealed_mount: str
    arguments: list[str] | None = None
    annotations: Object = field(default_factory=dict)
    resources: Object = field(default_factory=dict)
    tolerations: list[object] = field(default_factory=list)
    init_containers: list[object] = field(default_factory=list)
    volumes: list[object] = field(default_factory=list)
    mounts: list[object] = field(default_factory=list)
    objects: list[Object] = field(default_factory=list)


def tee_parts(plan: Plan, image: str) -> TeeParts:
    """The parts for the deployment's ``tee``. :param image: of the replicas."""
    return _simulated(plan, image) if plan.deployment.tee == "simulated" else _sgx(plan)


def platform_secret(plan: Plan) -> str:
    """Name of the Secret that holds the simulated machine's keys. It is nowhere in the files."""
    return f"{plan.name}-simulated-platform"


def tls_secret(plan: Plan) -> str:
    """Name of the Secret that holds ``ssl.cfg``, which is sealed already, of tensorflow_model_server."""
    return f"{plan.name}-tls"


def _simulated(plan: Plan, image: str) -> TeeParts:
    deployment = plan.deployment
    authority = f"{plan.name}-broker-ca"
    brokers = [option for address in plan.brokers for option in ("--broker", str(address))]
    rest = ["--rest-listen", f"{_EVERYWHERE}:{REST_PORT}"] if plan.rest else []
    metrics = ["--metrics-listen", f"{_EVERYWHERE}:{plan.metrics_port}"] if plan.metrics_port else []
    # The arguments are given here because nothing is measured: a simulated enclave says of itself what it is.
    arguments = [
        *("replica", "--tee", "simulated", "--platform", _PLATFORM, "--deployment", deployment.name),
        *("--listen", f"{_EVERYWHERE}:{GRPC_PORT}", *rest, *metrics, "--server-name", deployment.tls.server_name),
        *("--sealed", SEALED_DIRECTORY, *brokers, "--broker-ca", f"{_CONFIGURATION}/broker-ca.pem"),
        *("--stop-grace", str(STOP_GRACE), "--max-connection-age", str(connection_age(deployment))),
        *("--keep-asking", "--json-logs"),
    ]
    copy = {
        Comment(
            "A replica takes no key that others could read, and Kubernetes gives a Secret's files to a group: they are "
            "copied, to memory."
        ): None,
        "name": "platform",
        "image": image,
        "command": [
            *("/usr/bin/install", "-D", "-m", "0400", "-t", f"{_PLATFORM}/machine"),
            *(f"{_PLATFORM_SECRET}/{name}" for name in PLATFORM_KEYS),
        ],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "platform-secret", "mountPath": _PLATFORM_SECRET, "readOnly": True},
            {"name": "platform", "mountPath": _PLATFORM},
        ],
    }
    content = {
        Comment("Who vouches for the key brokers: a replica takes keys from no other."): None,
        "data": {"broker-ca.pem": plan.broker_ca},
    }
    return TeeParts(
        sealed_mount=SEALED_DIRECTORY,
        arguments=arguments,
        annotations={
            "sealserve.dev/warning": "SIMULATED: evidence under a root of its own, which protects nothing from this "
            "cluster"
        },
        init_containers=[copy],
        volumes=[
            {"name": "broker-ca", "configMap": {"name": authority}},
            {"name": "platform-secret", "secret": {"secretName": platform_secret(plan), "defaultMode": 0o440}},
            {"name": "platform", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
        mounts=[
            {"name": "broker-ca", "mountPath": _CONFIGURATION, "readOnly": True},
            {"name": "platform", "mountPath": _PLATFORM, "readOnly": True},
        ],
        objects=[plan.object("v1", "ConfigMap", authority, "replica", **content)],
    )


def _sgx(plan: Plan) -> TeeParts:
    deployment = plan.deployment
    profile = None if deployment.cloud is None else load_profile(deployment.cloud)
    aesm = "/var/run/aesmd" if profile is None else profile.devices.aesm_socket.rpartition("/")[0]
    claim = f"{plan.name}-aesm"
    annotations: Object = {}
    names = _INTEL if profile is None or profile.kubernetes is None else profile.kubernetes
    if names is _INTEL:
        annotations[
            Comment(
                "Quotes come from the node's AESM. Intel's webhook would add a hostPath volume for its socket, which "
                "the restricted standard forbids; it adds none where a volume of this name is mounted already."
            )
        ] = None
        annotations["sgx.intel.com/quote-provider"] = "aesmd"
    volumes: list[object] = [{"name": "aesmd-socket", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}]
    mounts: list[object] = [{"name": "aesmd-socket", "mountPath": aesm, "readOnly": True}]
    if plan.unmodified:
        volumes.append({"name": "tls", "secret": {"secretName": tls_secret(plan), "defaultMode": 0o440}})
        mounts.append({"name": "tls", "mountPath": TLS_DIRECTORY, "readOnly": True})
    return TeeParts(
        sealed_mount=deployment.model.mount_path if plan.unmodified else SEALED_DIRECTORY,
        annotations=annotations,
        resources={
            Comment("All of the enclave is loaded at start, and no more is ever used."): None,
            names.epc: f"{(plan.enclave or 0) // _MIB}{'' if names.epc_in_mib else 'Mi'}",
            **dict.fromkeys(names.devices, "1"),
        },
        tolerations=[{"key": names.epc, "operator": "Exists", "effect": "NoSchedule"}],
        volumes=volumes,
        mounts=mounts,
        objects=host_directory(
            plan, claim, aesm, size="1Mi", why="The directory of AESM's socket, on every node with SGX."
        ),
    )


def host_directory(plan: Plan, claim: str, path: str, *, size: str, why: str) -> list[Object]:
    """A directory of every node as a volume, for pods that may have no hostPath: a PersistentVolume, and its claim.

    :param claim: name of the claim. :param why: of it, for people. :param size: what is written as its size.
    """
    volume = f"{plan.namespace}-{claim}"
    modes = ["ReadOnlyMany"]
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume, "labels": plan.all_labels("replica")},
            "spec": {
                Comment(why): None,
                "hostPath": {"path": path, "type": "Directory"},
                "capacity": {"storage": size},
                "accessModes": modes,
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                Comment("Nobody else can claim it."): None,
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "namespace": plan.namespace,
                    "name": claim,
                },
            },
        },
        plan.object(
            "v1",
            "PersistentVolumeClaim",
            claim,
            "replica",
            spec={
                "accessModes": modes,
                "storageClassName": "",
                "volumeName": volume,
                "resources": {"requests": {"storage": size}},
            },
        ),
    ]
