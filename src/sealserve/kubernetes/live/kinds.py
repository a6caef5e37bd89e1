"""The kinds of objects that sealserve makes or reads, and where the API has them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from sealserve.errors import InputError
from sealserve.kubernetes.yaml_text import Object


@dataclass(frozen=True)
class Kind:
    """A kind of object.

    :ivar api_version: such as ``apps/v1``. :ivar plural: as the API's paths have it.
    :ivar comes_with: what brings it to a cluster, for kinds that are not Kubernetes' own.
    """

    api_version: str
    name: str
    plural: str
    namespaced: bool = True
    comes_with: str | None = None
    without: str | None = None
    """The setting that does without the kind."""

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The path of an object, or of all of them.

        :param namespace: of the object; None for all, and where the kind has none.
        """
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        parts = [root]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part is not None]
        return "/".join(parts)

    def __str__(self) -> str:
        return self.name

    @property
    def remedy(self) -> str:
        """What to do where a cluster does not have it: what to install, or what to do without."""
        otherwise = "" if self.without is None else f", or do without: {self.without}"
        return f"Install {self.comes_with or 'a newer Kubernetes'}{otherwise}."


_GATEWAY_API = "the Gateway API (https://gateway-api.sigs.k8s.io), 1.5 or later, and a controller that serves it"
_PROMETHEUS = "the Prometheus Operator (https://prometheus-operator.dev)"
_NO_OPERATOR = "kubernetes.monitoring.operator: false"

NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
NODE = Kind("v1", "Node", "nodes", namespaced=False)
POD = Kind("v1", "Pod", "pods")
SERVICE = Kind("v1", "Service", "services")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
SECRET = Kind("v1", "Secret", "secrets")
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
EVENT = Kind("v1", "Event", "events")
VOLUME = Kind("v1", "PersistentVolume", "persistentvolumes", namespaced=False)
CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
REPLICA_SET = Kind("apps/v1", "ReplicaSet", "replicasets")
AUTOSCALER = Kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
DISRUPTION_BUDGET = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
ENDPOINT_SLICE = Kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
CUSTOM_RESOURCE = Kind(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
GATEWAY_CLASS = Kind(
    "gateway.networking.k8s.io/v1", "GatewayClass", "gatewayclasses", namespaced=False, comes_with=_GATEWAY_API
)
GATEWAY = Kind("gateway.networking.k8s.io/v1", "Gateway", "gateways", comes_with=_GATEWAY_API)
TLS_ROUTE = Kind("gateway.networking.k8s.io/v1", "TLSRoute", "tlsroutes", comes_with=_GATEWAY_API)
TRANSPORT_SERVER = Kind(
    "k8s.nginx.org/v1", "TransportServer", "transportservers", comes_with="F5's NGINX Ingress Controller"
)
POD_MONITOR = Kind(
    "monitoring.coreos.com/v1", "PodMonitor", "podmonitors", comes_with=_PROMETHEUS, without=_NO_OPERATOR
)
SERVICE_MONITOR = Kind("monitoring.coreos.com/v1", "ServiceMonitor", "servicemonitors", comes_with=_PROMETHEUS)
PROMETHEUS_RULE = Kind(
    "monitoring.coreos.com/v1", "PrometheusRule", "prometheusrules", comes_with=_PROMETHEUS, without=_NO_OPERATOR
)
SCALED_OBJECT = Kind("keda.sh/v1alpha1", "ScaledObject", "scaledobjects", comes_with="KEDA (https://keda.sh)")

_KINDS = {(kind.api_version, kind.name): kind for kind in tuple(globals().values()) if isinstance(kind, Kind)}


def kind_of(thing: Object) -> Kind:
    """The kind of an object. :raises InputError: it is none that sealserve makes."""
    found = _KINDS.get((thing.get("apiVersion", ""), thing.get("kind", "")))
    if found is None:
        raise InputError(f"{thing.get('apiVersion')} {thing.get('kind')} is no kind of object that sealserve makes")
    return found


def describe(thing: Object) -> str:
    """An object as people call it, such as ``Deployment photos-replica``."""
    return f"{thing['kind']} {thing['metadata']['name']}"


def names(items: list[str]) -> str:
    """Names in a sentence; of many, the first."""
    shown = ", ".join(items[:4])
    return shown if len(items) <= 4 else f"{shown} and {len(items) - 4} more"
