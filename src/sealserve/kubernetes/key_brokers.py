"""Key brokers as pods over one PostgreSQL: for their owner's cluster, or a namespace that only the owner rules.

Their keys, certificate and password come from Secrets, whose files a group can read; brokers refuse such files. An init
container copies them to memory, as it does for replicas (ADR 93).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePosixPath
from urllib.parse import parse_qs, urlencode, urlsplit

import yaml

from sealserve.addresses import Address
from sealserve.deploy.images.dockerfile import BROKER_PORT
from sealserve.deploy.kubernetes_section import KeyBrokersSection
from sealserve.errors import ConfigurationError
from sealserve.kubernetes.network import DNS, allow_to
from sealserve.kubernetes.plan import COMPONENT_LABEL, Plan
from sealserve.kubernetes.pods import (
    DRAIN_SECONDS,
    container_security,
    disruption_budget,
    drain,
    pod_security,
    rolling_update,
    service_account,
    spread,
)
from sealserve.kubernetes.yaml_text import Comment, Object

COMPONENT = "key-broker"
ADMIN_PORT = 4434
SECRET_FILES = ("master.key", "broker-key.pem", "broker.pem")
"""What the Secret of the brokers holds: what ``sealserve prepare`` made."""

_EVERYWHERE = "0.0.0.0"  # noqa: S104 - of the pod
_USER = 10001
_CONFIGURATION = "/etc/sealserve"
_KEYS = "/keys"
_SECRET = "/secret"  # noqa: S105 - a path
_DATABASE_SECRET = "/database-secret"  # noqa: S105 - a path
_POSTGRESQL_PORT = 5432


@dataclass(frozen=True)
class Collateral:
    """What the brokers' policy judges evidence by.

    :ivar files: absolute path, as the policy in the store has it → content. :ivar services: that brokers ask.
    """

    files: dict[str, str]
    services: tuple[Address, ...]


def key_broker_objects(plan: Plan, brokers: KeyBrokersSection, collateral: Collateral) -> dict[str, list[Object]]:
    """Objects by file. :param plan: whose namespace is the brokers', and whose memory and CPU are a broker's."""
    configuration = _configuration(brokers)
    files = {PurePosixPath(path).name: text for path, text in collateral.files.items()}
    digest = sha256("\0".join([configuration, *files.values()]).encode()).hexdigest()[:16]
    data = {"broker.yaml": configuration, **files}
    return {
        "brokers.yaml": [
            service_account(plan, plan.broker_service, COMPONENT),
            plan.object("v1", "ConfigMap", plan.broker_service, COMPONENT, data=data),
            _deployment(plan, brokers, collateral, digest=digest),
            disruption_budget(plan, plan.broker_service, COMPONENT),
            _service(plan, brokers),
        ]
    }


def secret_name(plan: Plan) -> str:
    """Name of the Secret with :data:`SECRET_FILES`. It is nowhere in the files."""
    return plan.broker_service


def _configuration(brokers: KeyBrokersSection) -> str:
    content = {
        "listen": f"{_EVERYWHERE}:{BROKER_PORT}",
        "certificate": f"{_KEYS}/broker.pem",
        "private_key": f"{_KEYS}/broker-key.pem",
        "master_key": f"{_KEYS}/master.key",
        "store": _store(brokers),
        # For probes and metrics. Nobody has a token before the owner makes one.
        "admin": {"listen": f"{_EVERYWHERE}:{ADMIN_PORT}", "tokens": True},
    }
    return yaml.safe_dump(content, sort_keys=False, width=1000)


def _store(brokers: KeyBrokersSection) -> str:
    database = brokers.database
    added = {}
    if database.password is not None:
        added["passfile"] = f"{_KEYS}/{database.password}"
    if database.authority is not None:
        added["sslrootcert"] = f"{_KEYS}/{database.authority}"
    separator = "&" if urlsplit(database.url).query else "?"
    return database.url + (separator + urlencode(added, safe="/") if added else "")


def database_address(brokers: KeyBrokersSection) -> Address:
    """Where the database listens."""
    url = urlsplit(brokers.database.url)
    host = url.hostname or parse_qs(url.query).get("host", ["localhost"])[0]
    return Address(host, url.port or _POSTGRESQL_PORT)


def require_verified_tls(brokers: KeyBrokersSection) -> None:
    """Have brokers find out who answers as the database: libpq's own default, ``prefer``, takes anybody, without TLS
    too.

    :raises ConfigurationError: they would not, and the database is not at a Unix socket of theirs.
    """
    url = urlsplit(brokers.database.url)
    parameters = parse_qs(url.query, keep_blank_values=True)
    # Hosts may be several, with commas between them, and what is given twice may count either time.
    given = [url.hostname or "", *parameters.get("host", []), *parameters.get("hostaddr", [])]
    hosts = [host for each in given if each for host in each.split(",")]
    if hosts and all(host.startswith("/") for host in hosts):
        return
    modes = parameters.get("sslmode", ["prefer"])
    if not {"verify-full", "verify-ca"}.issuperset(modes):
        raise ConfigurationError(
            f"kubernetes.brokers.database: with sslmode={modes[-1]} whoever is between brokers and database can read "
            "its password, and change what the store and the audit log say",
            hint="Write sslmode=verify-full into the URL; `authority` names who certified the database.",
        )


def _deployment(plan: Plan, brokers: KeyBrokersSection, collateral: Collateral, *, digest: str) -> Object:
    spec = {
        "replicas": brokers.count,
        "strategy": rolling_update(),
        "selector": {"matchLabels": plan.labels(COMPONENT)},
        "template": {
            "metadata": {
                "labels": plan.all_labels(COMPONENT),
                "annotations": {
                    Comment("Changes with what brokers read at their start."): None,
                    "sealserve.dev/configuration": digest,
                },
            },
            "spec": _pod(plan, brokers, collateral),
        },
    }
    return plan.object("apps/v1", "Deployment", plan.broker_service, COMPONENT, spec=spec)


def _pod(plan: Plan, brokers: KeyBrokersSection, collateral: Collateral) -> Object:
    database = brokers.database
    # All that is in the first: while the master key is changed, the next one is there too.
    secrets: list[tuple[str, str, str, Sequence[str]]] = [("secret", secret_name(plan), _SECRET, ["*"])]
    if database.secret is not None:
        keys = [key for key in (database.password, database.authority) if key is not None]
        secrets.append(("database-secret", database.secret, _DATABASE_SECRET, keys))
    return {
        "serviceAccountName": plan.broker_service,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(_USER),
        "terminationGracePeriodSeconds": DRAIN_SECONDS + 30,
        "topologySpreadConstraints": spread(plan, COMPONENT),
        "initContainers": [_copy(brokers, secrets)],
        "containers": [_container(plan, brokers, collateral)],
        "volumes": [
            {"name": "configuration", "configMap": {"name": plan.broker_service}},
            *({"name": name, "secret": {"secretName": secret, "defaultMode": 0o440}} for name, secret, _, _ in secrets),
            {"name": "keys", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        ],
    }


def _copy(brokers: KeyBrokersSection, secrets: Sequence[tuple[str, str, str, Sequence[str]]]) -> Object:
    files = " ".join(f"{path}/{name}" for _, _, path, names in secrets for name in names)
    return {
        Comment(
            "A broker takes no key that others could read, and Kubernetes gives a Secret's files to a group: they are "
            "copied, to memory."
        ): None,
        "name": "keys",
        "image": brokers.image,
        "command": ["/bin/sh", "-c", f"exec /usr/bin/install -m 0400 -t {_KEYS} {files}"],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": container_security(),
        "volumeMounts": [
            *({"name": name, "mountPath": path, "readOnly": True} for name, _, path, _ in secrets),
            {"name": "keys", "mountPath": _KEYS},
        ],
    }


def _container(plan: Plan, brokers: KeyBrokersSection, collateral: Collateral) -> Object:
    # Of a file alone: the directory in which the policy has it may be anywhere.
    files: list[object] = [
        {"name": "configuration", "mountPath": path, "subPath": PurePosixPath(path).name, "readOnly": True}
        for path in collateral.files
    ]
    healthy = {"path": "/healthz", "port": ADMIN_PORT, "scheme": "HTTPS"}
    return {
        "name": "broker",
        "image": brokers.image,
        "args": ["broker", "run", "--file", f"{_CONFIGURATION}/broker.yaml", "--json-logs"],
        "ports": [
            {"name": "broker", "containerPort": BROKER_PORT},
            {"name": "admin", "containerPort": ADMIN_PORT},
        ],
        "resources": {"requests": {"cpu": plan.cpu, "memory": plan.memory}, "limits": {"memory": plan.memory}},
        "securityContext": container_security(),
        Comment("Ready: the database can be read and trusted, and decisions can be recorded."): None,
        "readinessProbe": {
            "httpGet": {**healthy, "path": "/readyz"},
            "periodSeconds": 3,
            "timeoutSeconds": 3,
            "failureThreshold": 2,
        },
        "startupProbe": {"httpGet": healthy, "periodSeconds": 2, "timeoutSeconds": 3, "failureThreshold": 60},
        "livenessProbe": {"httpGet": healthy, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "lifecycle": drain(),
        "volumeMounts": [
            {"name": "configuration", "mountPath": _CONFIGURATION, "readOnly": True},
            {"name": "keys", "mountPath": _KEYS, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            *files,
        ],
    }


def _service(plan: Plan, brokers: KeyBrokersSection) -> Object:
    spec = {
        "type": brokers.service,
        "selector": plan.labels(COMPONENT),
        "ports": [{"name": "broker", "port": BROKER_PORT, "targetPort": "broker"}],
    }
    return plan.object("v1", "Service", plan.broker_service, COMPONENT, spec=spec)


def key_broker_policy(plan: Plan, brokers: KeyBrokersSection, collateral: Collateral, *, replicas: str) -> Object:
    """Who reaches the brokers, and whom they reach. :param replicas: the namespace of the replicas."""
    ports = [{"protocol": "TCP", "port": BROKER_PORT}]
    shared = {key: value for key, value in plan.labels("").items() if key != COMPONENT_LABEL}
    asking: Object = {
        "from": [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": replicas}},
                "podSelector": {
                    "matchLabels": shared,
                    # Of an image that is tried, too, whether or not one is today; and not the edge, which has no
                    # business here.
                    "matchExpressions": [{"key": COMPONENT_LABEL, "operator": "In", "values": ["replica", "canary"]}],
                },
            }
        ],
        "ports": ports,
    }
    if brokers.service == "LoadBalancer":
        asking = {Comment("Anybody may ask. Evidence decides who gets a key."): None, "ports": ports}
    ingress = [asking]
    if brokers.admin_namespace is not None:
        administrators = {"matchLabels": {"kubernetes.io/metadata.name": brokers.admin_namespace}}
        ingress.append(
            {
                Comment("Administration and metrics."): None,
                "from": [{"namespaceSelector": administrators}],
                "ports": [{"protocol": "TCP", "port": ADMIN_PORT}],
            }
        )
    egress = [
        _to("The database", database_address(brokers)),
        *(_to("Collateral", address) for address in collateral.services),
        DNS,
    ]
    spec = {
        "podSelector": {"matchLabels": plan.labels(COMPONENT)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": egress,
    }
    return plan.object("networking.k8s.io/v1", "NetworkPolicy", plan.broker_service, COMPONENT, spec=spec)


def _to(what: str, address: Address) -> Object:
    host = address.host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        labels = host.split(".")
        if len(labels) in (3, 5) and labels[2] == "svc":
            namespace = {"matchLabels": {"kubernetes.io/metadata.name": labels[1]}}
            ports = [{"protocol": "TCP", "port": address.port}]
            return {Comment(f"{what}."): None, "to": [{"namespaceSelector": namespace}], "ports": ports}
    return allow_to(what, address)
