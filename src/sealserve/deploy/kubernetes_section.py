"""The section ``kubernetes`` of ``deployment.yaml``: how the deployment runs in a cluster."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sealserve.addresses import is_dns_name
from sealserve.configuration import SettingError, Settings
from sealserve.deploy.field_types import AddressText, DatabaseText
from sealserve.deploy.image_section import is_pinned

EdgeKind = Literal["nginx", "gateway", "transport-server", "node-port"]

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._/-]*)?")
_CLEAN_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")
_SECRET_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}")
_MEMORY = re.compile(r"[1-9]\d{0,6}(Mi|Gi)")
_CPU = re.compile(r"[1-9]\d{0,3}|[1-9]\d{1,5}m")


def _is_label(value: str) -> str:
    if not _LABEL.fullmatch(value):
        raise ValueError("must be 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end")
    return value


def _is_name(value: str) -> str:
    if not is_dns_name(value) or value != value.lower():
        raise ValueError("must be a name as Kubernetes has them: lower-case letters, digits, '-' and '.'")
    return value


def _is_host_path(value: str) -> str:
    if not _CLEAN_PATH.fullmatch(value) or {".", ".."} & set(value.split("/")):
        raise ValueError("must be an absolute path of letters, digits, '.', '_' and '-'")
    return value


def _is_memory(value: str) -> str:
    if value != "auto" and not _MEMORY.fullmatch(value):
        raise ValueError("must be auto or a size such as 512Mi or 8Gi")
    return value


def _is_cpu(value: str) -> str:
    if value != "auto" and not _CPU.fullmatch(value):
        raise ValueError("must be auto, or CPUs such as '4' (in quotes) or 500m")
    return value


def _is_label_key(value: str) -> str:
    prefix, _, name = value.rpartition("/")
    if not _LABEL_VALUE.fullmatch(name) or not (is_dns_name(prefix) if "/" in value else True):
        raise ValueError("must be a label's name as Kubernetes has them, such as release or team.example/part")
    return value


def _is_label_value(value: str) -> str:
    if value and not _LABEL_VALUE.fullmatch(value):
        raise ValueError("must be a label's value as Kubernetes has them: at most 63 letters, digits, '-', '_' and '.'")
    return value


def _is_url(value: str) -> str:
    if not _URL.fullmatch(value):
        raise ValueError("must be a URL such as http://prometheus-operated.monitoring.svc:9090")
    return value


Label = Annotated[str, AfterValidator(_is_label)]
Name = Annotated[str, AfterValidator(_is_name)]
LabelKey = Annotated[str, AfterValidator(_is_label_key)]
LabelValue = Annotated[str, AfterValidator(_is_label_value)]
Pinned = Annotated[str, AfterValidator(is_pinned)]

# Which kinds of edge each setting goes with.
_GOES_WITH: dict[str, tuple[EdgeKind, ...]] = {
    "image": ("nginx",),
    "service": ("nginx",),
    "resolver": ("nginx",),
    "gateway": ("gateway",),
    "gateway_class": ("gateway",),
    "ingress_class": ("transport-server",),
    "controller_namespace": ("gateway", "transport-server"),
    "node_port": ("node-port",),
    "rest_node_port": ("node-port",),
}

_UNWEIGHTED: dict[EdgeKind, str] = {
    "transport-server": "a TransportServer has no weights",
    "node-port": "a Service shares connections among all of its pods alike",
}


class EdgeSection(Settings):
    kind: EdgeKind = Field(
        default="nginx",
        description="What leads clients to replicas. nginx: a Deployment of our own, which works everywhere. gateway: "
        "a TLSRoute of the Gateway API. transport-server: of F5's NGINX Ingress Controller. node-port: a port of every "
        "node. TLS ends inside the replicas in all of them.",
    )
    image: Pinned | None = Field(
        default=None,
        description="With nginx, its image (1.27.3 or newer, which looks names up again), pinned by digest.",
        examples=["nginx:1.29@sha256:" + 64 * "0"],
    )
    service: Literal["LoadBalancer", "NodePort", "ClusterIP"] = Field(
        default="LoadBalancer", description="With nginx, how clients reach it."
    )
    resolver: Name = Field(
        default="kube-dns.kube-system.svc.cluster.local",
        description="With nginx, name of the cluster's DNS service.",
    )
    gateway: Name | None = Field(
        default=None,
        description="With gateway, name of the Gateway: ours, with gateway_class, or one that is there, whose "
        "listeners for TLS passthrough are called grpc and, with REST, rest.",
    )
    gateway_class: Name | None = Field(
        default=None, description="With gateway, the class of a Gateway that is made for this deployment."
    )
    controller_namespace: Label | None = Field(
        default=None,
        description="With gateway and transport-server, the namespace in which the proxies run that connect to "
        "replicas. Nobody else may. With gateway and without gateway_class, the Gateway itself is there too.",
    )
    ingress_class: Name = Field(default="nginx", description="With transport-server, the controller's class.")
    node_port: int = Field(default=30500, ge=1, le=65535, description="With node-port, the port for gRPC.")
    rest_node_port: int = Field(default=30501, ge=1, le=65535, description="With node-port, the port for REST.")

    @model_validator(mode="after")
    def _settings_fit_the_kind(self) -> Self:
        for name in sorted(self.model_fields_set - {"kind"}):
            if self.kind not in _GOES_WITH[name]:
                raise SettingError((name,), f"goes with kind: {' or '.join(_GOES_WITH[name])}, not {self.kind}")
        needed = {"nginx": ["image"], "gateway": ["gateway", "controller_namespace"]}
        needed["transport-server"] = ["controller_namespace"]
        for name in needed.get(self.kind, []):
            if getattr(self, name) is None:
                raise ValueError(f"kind: {self.kind} needs {name}")
        if self.kind == "node-port" and self.node_port == self.rest_node_port:
            raise SettingError(("rest_node_port",), "must not be the same port as node_port")
        return self


class SealedModelSection(Settings):
    claim: Name | None = Field(
        default=None, description="A PersistentVolumeClaim in the namespace that holds the sealed model."
    )
    image: Pinned | None = Field(
        default=None,
        description="An OCI image with the sealed model's files and nothing else, pinned by digest. Needs Kubernetes "
        "1.35, or 1.33 with the feature gate ImageVolume.",
    )
    host_path: Annotated[str, AfterValidator(_is_host_path)] | None = Field(
        default=None, description="A directory on every node that holds the sealed model."
    )

    @model_validator(mode="after")
    def _comes_one_way(self) -> Self:
        if sum(given is not None for given in (self.claim, self.image, self.host_path)) != 1:
            raise ValueError("needs one of claim, image and host_path, and no two")
        return self


class ResourcesSection(Settings):
    cpu: Annotated[str, AfterValidator(_is_cpu)] = Field(
        default="auto", description="CPU that each replica asks for. auto: replicas.threads, or 1 where that is auto."
    )
    memory: Annotated[str, AfterValidator(_is_memory)] = Field(
        default="auto", description="Memory that each replica asks for and is held to. auto: from the model's size."
    )


class AutoscalingSection(Settings):
    min: int = Field(default=2, ge=1, le=1000, description="Fewest replicas.")
    max: int = Field(ge=1, le=1000, description="Most replicas.")
    cpu: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Percentage of the CPU asked for that is aimed at. 70 if neither cpu nor requests is given.",
    )
    requests: int | None = Field(
        default=None, ge=1, le=1000, description="Requests in flight of each replica that are aimed at."
    )
    through: Literal["prometheus", "keda"] | None = Field(
        default=None,
        description="With requests, what knows how many there are. prometheus: its adapter, which has to be told a "
        "rule. keda: KEDA, which asks a Prometheus.",
    )
    server: Annotated[str, AfterValidator(_is_url)] | None = Field(
        default=None,
        description="With through: keda, URL of the Prometheus.",
        examples=["http://prometheus-operated.monitoring.svc:9090"],
    )

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.max < self.min:
            raise SettingError(("max",), f"must be at least min, which is {self.min}")
        if self.requests is not None and self.through is None:
            raise SettingError(("requests",), "needs through: prometheus or keda beside it")
        if self.through is not None and self.requests is None:
            raise SettingError(("through",), "goes with requests")
        if self.through == "keda" and self.server is None:
            raise SettingError(("through",), "keda needs server, the URL of the Prometheus that it asks")
        if self.server is not None and self.through != "keda":
            raise SettingError(("server",), "goes with through: keda")
        return self

    @property
    def cpu_aim(self) -> int | None:
        """Percentage of the CPU that is aimed at; None to look at requests alone."""
        return 70 if self.cpu is None and self.requests is None else self.cpu


class MonitoringSection(Settings):
    namespace: Label = Field(description="Where the Prometheus runs that may ask replicas. Nobody else may.")
    operator: bool = Field(
        default=True,
        description="Whether the cluster has the Prometheus Operator. If not, there is no PodMonitor, and rules are a "
        "file in a ConfigMap.",
    )
    labels: dict[LabelKey, LabelValue] = Field(
        default={},
        description="By which that Prometheus selects monitors and rules.",
        examples=[{"release": "prometheus"}],
    )
    rules: bool = Field(default=True, description="Whether there are rules of alerts.")
    dashboard: bool = Field(default=True, description="Whether there is a dashboard for Grafana.")
    p99_seconds: float = Field(
        default=1.0, gt=0, le=3600, description="One request of a hundred may take longer, before an alert says so."
    )


class CanarySection(Settings):
    image: Pinned = Field(description="The image to try, pinned by digest.")
    weight: int = Field(default=10, ge=1, le=99, description="Percentage of connections that it gets.")
    count: int = Field(default=1, ge=1, le=1000, description="Number of replicas of it.")


class DatabaseSection(Settings):
    url: DatabaseText = Field(
        description="PostgreSQL as the brokers' pods reach it. It is what `sealserve prepare` filled by broker.store, "
        "which may call it by another name.",
        examples=["postgresql://broker@db.keys.svc/keys?sslmode=verify-full"],
    )
    secret: Name | None = Field(
        default=None, description="A Secret in the brokers' namespace with the password's file and the authority."
    )
    password: str | None = Field(
        default=None, description="In that Secret, the key of a password file (.pgpass).", examples=["pgpass"]
    )
    authority: str | None = Field(
        default=None,
        description="In that Secret, the key of the certificate authority of the database, PEM.",
        examples=["ca.crt"],
    )

    @model_validator(mode="after")
    def _keys_need_a_secret(self) -> Self:
        if self.secret is None and (self.password or self.authority):
            raise SettingError(("secret",), "is needed with password and authority: they are keys in it")
        if self.secret is not None and not (self.password or self.authority):
            raise SettingError(("secret",), "needs password, authority or both: keys in it")
        for name in (self.password, self.authority):
            if name is not None and not _SECRET_KEY.fullmatch(name):
                raise ValueError("password and authority are keys of a Secret: letters, digits, '-', '_' and '.'")
        return self


class KeyBrokersSection(Settings):
    image: Pinned = Field(description="The image of `sealserve image render broker`, pinned by digest.")
    namespace: Label | None = Field(
        default=None,
        description="Their namespace, which is made; in this cluster or another. Not the replicas': who may read "
        "Secrets there has the keys. NAME-keys if not given.",
    )
    count: int = Field(default=2, ge=1, le=16, description="How many brokers run.")
    database: DatabaseSection = Field(description="The PostgreSQL database that they share.")
    service: Literal["ClusterIP", "LoadBalancer"] = Field(
        default="ClusterIP",
        description="How replicas reach them. ClusterIP: from this cluster, by the name NAME-broker.NAMESPACE.svc. "
        "LoadBalancer: from others too, by a name that is in image.brokers.",
    )
    admin_namespace: Label | None = Field(
        default=None,
        description="The namespace whose pods may reach administration and metrics, such as Prometheus's.",
    )


class KubernetesSection(Settings):
    image: Pinned = Field(
        description="The image of the replicas, pinned by digest: what `sealserve image` signed, for tee: sgx; for "
        "tee: simulated one whose entry point is sealserve.",
    )
    namespace: Label | None = Field(
        default=None, description="The namespace, which is made. The deployment's name if not given."
    )
    sealed_model: SealedModelSection = Field(description="Where replicas find the sealed model.")
    edge: EdgeSection = Field(description="What leads clients to replicas.")
    broker: AddressText | None = Field(
        default=None,
        description="IP address or DNS name, and port, of a key broker outside of the cluster. It gets the name "
        "NAME-broker.NAMESPACE.svc inside, which image.brokers then has to have. Not needed where image.brokers are "
        "names that the cluster's DNS knows.",
    )
    brokers: KeyBrokersSection | None = Field(
        default=None,
        description="Key brokers in a cluster, for `sealserve k8s render-brokers`. Who rules it has the keys.",
    )
    resources: ResourcesSection = Field(default=ResourcesSection(), description="What replicas ask of their node.")
    autoscaling: AutoscalingSection | None = Field(
        default=None,
        description="More and fewer replicas, as there is more and less to do. replicas.count if not given.",
    )
    monitoring: MonitoringSection | None = Field(
        default=None, description="Metrics of replicas for Prometheus. None are told if not given."
    )
    canary: CanarySection | None = Field(
        default=None, description="Replicas of another image, to which some of the connections are led."
    )

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        if self.autoscaling is not None and self.autoscaling.requests is not None and self.monitoring is None:
            raise SettingError(("autoscaling", "requests"), "needs the section monitoring: replicas tell how many")
        if self.canary is not None and (reason := _UNWEIGHTED.get(self.edge.kind)) is not None:
            raise SettingError(("canary",), f"goes with edge.kind: nginx or gateway, not {self.edge.kind}: {reason}")
        return self
