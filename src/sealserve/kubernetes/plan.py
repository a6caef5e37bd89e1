"""What is known of a deployment in a cluster before any object is written: names, labels, ports, brokers."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from sealserve.addresses import Address
from sealserve.deploy import Deployment
from sealserve.deploy.image_section import UNKNOWN_DIGEST
from sealserve.deploy.images.dockerfile import BROKER_PORT
from sealserve.deploy.images.layout import GRPC_PORT, METRICS_PORT, REST_PORT
from sealserve.deploy.images.programs import brokers_of
from sealserve.deploy.kubernetes_section import KubernetesSection
from sealserve.errors import ConfigurationError
from sealserve.kubernetes.yaml_text import Object

OLDEST_VERSION = "1.31"
"""The oldest Kubernetes that everything but image volumes is for."""

TEE_LABEL = "sealserve.dev/tee"
COMPONENT_LABEL = "app.kubernetes.io/component"
STABLE, CANARY = "replica", "canary"
"""The components that are replicas."""
_LONGEST_NAME = 63  # of a Service


@dataclass(frozen=True)
class Track:
    """Replicas of one image.

    :ivar component: in their labels, by which nothing finds those of another track. :ivar deployment: name of their
        Deployment, and of their policy and budget; :ivar service: of their headless Service; :ivar shared_service: of
        the one that a Gateway leads to.
    :ivar count: how many there are to be; None if an autoscaler says so.
    """

    component: str
    deployment: str
    service: str
    shared_service: str
    image: str
    count: int | None


@dataclass(frozen=True)
class Plan:
    """A deployment in a cluster.

    :ivar brokers: where replicas find the key brokers.
    :ivar memory: that one replica may use, and :ivar cpu: that it asks for, as quantities of the API.
    :ivar enclave: bytes of protected memory (EPC) of one replica, with ``tee: sgx``.
    :ivar broker_ca: certificate authority of the brokers, PEM, which simulated replicas are given as a file.
    """

    deployment: Deployment
    section: KubernetesSection
    brokers: tuple[Address, ...]
    memory: str
    cpu: str
    enclave: int | None
    broker_ca: str | None

    @property
    def name(self) -> str:
        return self.deployment.name

    @property
    def namespace(self) -> str:
        return self.section.namespace or self.deployment.name

    @property
    def replica(self) -> str:
        """Name of the replicas' Deployment."""
        return f"{self.name}-replica"

    @property
    def replicas_service(self) -> str:
        """Name of the headless Service."""
        return f"{self.name}-replicas"

    @property
    def stable(self) -> Track:
        """The replicas that there always are."""
        count = self.deployment.replicas.count if self.section.autoscaling is None else None
        return Track(STABLE, self.replica, self.replicas_service, self.name, self.section.image, count)

    @property
    def canary(self) -> Track | None:
        """Those of an image that is tried, if one is."""
        wanted = self.section.canary
        if wanted is None:
            return None
        names = (f"{self.replica}-canary", f"{self.replicas_service}-canary", f"{self.name}-canary")
        return Track(CANARY, *names, wanted.image, wanted.count)

    @property
    def tracks(self) -> tuple[Track, ...]:
        """All replicas: the broker's policy has to know each image's measurement."""
        return (self.stable,) if self.canary is None else (self.stable, self.canary)

    @property
    def edge(self) -> str:
        """Name of the edge's Deployment."""
        return f"{self.name}-edge"

    @property
    def broker_service(self) -> str:
        return f"{self.name}-broker"

    @property
    def keys_namespace(self) -> str | None:
        """The namespace of key brokers in a cluster, if there are to be some."""
        brokers = self.section.brokers
        return None if brokers is None else brokers.namespace or f"{self.name}-keys"

    @property
    def unmodified(self) -> bool:
        """Whether replicas are the unmodified tensorflow_model_server."""
        return self.deployment.model.engine == "tensorflow-serving"

    @property
    def rest(self) -> bool:
        return self.deployment.gateway.rest_listen is not None

    @property
    def ports(self) -> dict[str, int]:
        """Name → port of replicas, and of what leads to them."""
        return {"grpc": GRPC_PORT, **({"rest": REST_PORT} if self.rest else {})}

    @property
    def metrics_port(self) -> int | None:
        """Where replicas tell metrics, if they do."""
        return METRICS_PORT if self.deployment.tells_metrics else None

    def labels(self, component: str) -> dict[str, str]:
        """The labels that select the pods of ``component``. They never change: a Deployment's selector cannot."""
        return {
            "app.kubernetes.io/name": "sealserve",
            "app.kubernetes.io/instance": self.name,
            COMPONENT_LABEL: component,
        }

    @property
    def every_replica(self) -> dict[str, str | tuple[str, ...]]:
        """The labels that select all replicas, those of a canary too that the deployment does not ask for any more."""
        return {**self.labels(STABLE), COMPONENT_LABEL: (STABLE, CANARY)}

    def all_labels(self, component: str) -> dict[str, str]:
        """The labels of objects of ``component``."""
        return {
            **self.labels(component),
            "app.kubernetes.io/managed-by": "sealserve",
            TEE_LABEL: self.deployment.tee,
        }

    def object(self, api_version: str, kind: str, name: str, component: str, **content: object) -> Object:
        """An object in the namespace."""
        metadata = {"name": name, "namespace": self.namespace, "labels": self.all_labels(component)}
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}


def plan_for_reading(deployment: Deployment) -> Plan:
    """What finding a deployment's objects in a cluster takes: neither its model nor anything else has to be here.

    Nothing can be rendered from it. :raises ConfigurationError: the deployment cannot run in a cluster as it is.
    """
    section = check(deployment)
    brokers = tuple(brokers_of(deployment))
    return Plan(deployment, section, brokers, memory="", cpu="", enclave=None, broker_ca=None)


def check(deployment: Deployment) -> KubernetesSection:
    """The section ``kubernetes``, if the deployment can run in a cluster.

    :raises ConfigurationError: it cannot, or not as it is asked for.
    """
    section = deployment.kubernetes
    if section is None:
        raise ConfigurationError(
            "the deployment has no section kubernetes", hint="docs/kubernetes.md has one to begin with."
        )
    if deployment.tee == "tdx":
        raise ConfigurationError(
            "tee: tdx cannot be rendered for Kubernetes: a TDX guest is a virtual machine that starts its replica by "
            "itself, and a pod would have to be one",
            hint="docs/tdx.md shows how guests start their replicas. In a cluster use tee: sgx, or tee: simulated to "
            "try.",
        )
    longest = _LONGEST_NAME - len("-replicas" if section.canary is None else "-replicas-canary")
    if len(deployment.name) > longest or not re.match("[a-z]", deployment.name):
        raise ConfigurationError(
            f"name: {deployment.name} cannot be the beginning of names in Kubernetes",
            hint=f"Let it have at most {longest} characters, with a letter first.",
        )
    if section.edge.kind == "transport-server" and deployment.gateway.rest_listen is not None:
        raise ConfigurationError(
            "kubernetes.edge: a TransportServer leads one server name to one port, which gRPC has",
            hint="Take gateway.rest_listen out, or use another kind of edge.",
        )
    if deployment.model.engine == "tensorflow-serving" and deployment.gateway.rest_listen is not None:
        raise ConfigurationError(
            "gateway.rest_listen: the REST port of tensorflow_model_server has no TLS",
            hint="Take gateway.rest_listen out, or use model.engine: openvino or tensorflow.",
        )
    _check_digests(section)
    if deployment.model.engine == "tensorflow-serving" and section.monitoring is not None:
        raise ConfigurationError(
            "kubernetes.monitoring: tensorflow_model_server tells metrics at its REST port alone, which has no TLS and "
            "takes requests",
            hint="Take kubernetes.monitoring out, or use model.engine: openvino or tensorflow.",
        )
    _check_brokers(deployment, section)
    return section


def _check_digests(section: KubernetesSection) -> None:
    settings = {
        "image": (section.image, "`sealserve image push --write FILE` (or `save`) puts"),
        "sealed_model.image": (section.sealed_model.image, "`sealserve image model -o model.tar --write FILE` puts"),
        "edge.image": (section.edge.image, "`sealserve image pin nginx:1.29 --write FILE kubernetes.edge.image` puts"),
    }
    for name, (reference, how) in settings.items():
        if reference is not None and reference.endswith(UNKNOWN_DIGEST):
            raise ConfigurationError(
                f"kubernetes.{name} has no digest yet: {reference.partition('@')[0]}", hint=f"{how} it there."
            )


def _check_brokers(deployment: Deployment, section: KubernetesSection) -> None:
    addresses = brokers_of(deployment)
    keys = "" if section.brokers is None else section.brokers.namespace or f"{deployment.name}-keys"
    if keys == (section.namespace or deployment.name):
        raise ConfigurationError(
            f"kubernetes.brokers.namespace: {keys} is the replicas', and who may read its Secrets would have the keys",
            hint="Give the key brokers a namespace of their own.",
        )
    if section.brokers is not None and section.brokers.service == "ClusterIP":
        service = f"{deployment.name}-broker.{keys}.svc"
        if not any(
            address.host in {service, f"{service}.cluster.local"} and address.port == BROKER_PORT
            for address in addresses
        ):
            raise ConfigurationError(
                f"kubernetes.brokers are called {service} in the cluster, and image.brokers does not have that "
                f"name with port {BROKER_PORT}",
                hint=f"Set image.brokers: ['{service}:{BROKER_PORT}'] and run `sealserve prepare`, so that the "
                "brokers' certificate has the name too.",
            )
    if section.broker is not None:
        namespace = section.namespace or deployment.name
        service = f"{deployment.name}-broker.{namespace}.svc"
        names = {service, f"{service}.cluster.local"}
        if section.broker.port == 0 or is_here(section.broker):
            raise ConfigurationError(
                f"kubernetes.broker: {section.broker} is none that a pod could connect to",
                hint="Give the address at which the broker listens for the cluster, with its port.",
            )
        ports = [address.port for address in addresses if address.host in names]
        if ports and section.broker.port not in ports:
            # The Service is headless, or an alias: it leads from a port to the same one.
            listens = deployment.broker.listen.port
            wrong = "image.brokers" if section.broker.port == listens else "kubernetes.broker"
            raise ConfigurationError(
                f"the ports differ of kubernetes.broker ({section.broker}) and image.brokers ({service}:{ports[0]}): "
                f"{section.broker.port} and {ports[0]}",
                hint=f"Let {wrong} have the port of the other: broker.listen says {listens}.",
            )
        if not ports:
            raise ConfigurationError(
                f"kubernetes.broker is called {service} in the cluster, and image.brokers does not have that name",
                hint=f"Set image.brokers: ['{service}:{section.broker.port}'] and run `sealserve prepare`, so that "
                "the broker's certificate has the name too.",
            )
        return
    for address in addresses:
        if address.port == 0 or is_here(address):
            raise ConfigurationError(
                f"replicas would look for the key broker at {address}, which is their own pod",
                hint="Set image.brokers to where pods find it, or kubernetes.broker to where it is.",
            )


def is_here(address: Address, *, wildcard: bool = True) -> bool:
    """Whether whoever connects to ``address`` comes to its own machine.

    :param wildcard: whether that holds of ``0.0.0.0`` and ``::``, too: not where somebody is to listen.
    """
    try:
        numeric = ipaddress.ip_address(address.host)
    except ValueError:
        return address.host == "localhost"
    return numeric.is_loopback or (wildcard and numeric.is_unspecified)
