"""From ``deployment.yaml`` to a directory with the key brokers' objects, which are their owner's."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from sealserve import __version__
from sealserve.addresses import Address
from sealserve.configuration import load_yaml
from sealserve.deploy import load_deployment
from sealserve.deploy.kubernetes_section import KeyBrokersSection, KubernetesSection
from sealserve.deploy.rendered_directory import require_replaceable, write_directory
from sealserve.errors import ConfigurationError, InputError
from sealserve.evidence.policy import PolicyDocument
from sealserve.evidence.service import service_at
from sealserve.files import read_file
from sealserve.kubernetes.key_brokers import (
    COMPONENT,
    SECRET_FILES,
    Collateral,
    database_address,
    key_broker_objects,
    key_broker_policy,
    require_verified_tls,
    secret_name,
)
from sealserve.kubernetes.monitoring import broker_metrics_secret, broker_monitor_objects
from sealserve.kubernetes.plan import Plan, check, is_here
from sealserve.kubernetes.rendering import (
    RENDERED,
    Rendered,
    namespace_object,
    with_kustomization,
    written_earlier,
)

_MEMORY, _CPU = "512Mi", "500m"
_LARGEST = 900_000
"""Bytes of collateral in a ConfigMap, which has 1 MiB at most."""


def render_key_brokers(deployment_file: Path, output: Path) -> Rendered:
    """Render the key brokers' objects into a directory.

    :raises InputError: the directory holds something else, or `sealserve prepare` has made no policy yet.
    :raises ConfigurationError: the deployment has no brokers in a cluster, or not as they are asked for.
    """
    deployment = load_deployment(deployment_file)
    section = check(deployment)
    brokers = section.brokers
    if brokers is None:
        raise ConfigurationError(
            "the deployment has no section kubernetes.brokers", hint="docs/kubernetes-brokers.md has one to begin with."
        )
    require_verified_tls(brokers)
    require_replaceable(output, lambda: written_earlier(output))
    replicas = Plan(deployment, section, (), memory=_MEMORY, cpu=_CPU, enclave=None, broker_ca=None)
    plan = replace(replicas, section=section.model_copy(update={"namespace": replicas.keys_namespace}))
    collateral = _collateral(deployment.state / "owner" / "replica-policy.yaml")
    objects = key_broker_objects(plan, brokers, collateral)
    policy = key_broker_policy(plan, brokers, collateral, replicas=replicas.namespace)
    contents = {"namespace.yaml": [namespace_object(plan)], **objects, "network-policy.yaml": [policy]}
    if monitoring := broker_monitor_objects(plan, COMPONENT):
        contents["monitoring.yaml"] = monitoring
    files = with_kustomization(contents, title=_TITLE)
    write_directory(output, files)
    return Rendered(
        output,
        plan.namespace,
        tuple(sorted(files)),
        tuple(_warnings(section, brokers)),
        tuple(_steps(plan, brokers, output)),
    )


_TITLE = (
    f"{RENDERED} {__version__} (`sealserve k8s render-brokers`): change deployment.yaml and render it again. The key "
    "brokers: who rules this cluster, or may read Secrets or run pods in this namespace, has the keys."
)


def _collateral(policy: Path) -> Collateral:
    if not policy.exists():
        raise InputError(
            f"there is no {policy}, which says what brokers judge replicas by",
            hint="`sealserve prepare` says how it is made.",
        )
    settings = load_yaml(policy, PolicyDocument).collateral
    try:
        files = {str(path): _text(path) for path in (settings.file, settings.ca) if path is not None}
    except UnicodeDecodeError:
        raise ConfigurationError(f"a file of collateral that {policy} names is no text") from None
    names = ["broker.yaml", *(Path(path).name for path in files)]
    fitting = len(set(names)) == len(names) and all(re.fullmatch(r"[A-Za-z0-9._-]{1,253}", name) for name in names)
    if not fitting or sum(map(len, files.values())) > _LARGEST:
        raise ConfigurationError(
            f"the files of collateral that {policy} names do not fit into one ConfigMap",
            hint="Have the policy name a service.",
        )
    asked = []
    if settings.service is not None:
        service = service_at(settings.service, insecure_allow_http=settings.insecure_allow_http)
        asked = [service.base, service.root_crl]
        if settings.proxy not in (None, "none"):
            asked = [str(settings.proxy)]
    services = [_address(url) for url in asked]
    return Collateral(files, tuple(dict.fromkeys(services)))


def _text(path: Path) -> str:
    if os.path.normpath(path) != str(path):
        raise ConfigurationError(
            f"the policy names {path}, and no file can be given to a pod under such a path",
            hint="Write the path in the policy without .. and run `sealserve prepare` again.",
        )
    return read_file(path).decode().rstrip("\n") + "\n"


def _address(url: str) -> Address:
    parts = urlsplit(url)
    return Address(parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443))


def _warnings(section: KubernetesSection, brokers: KeyBrokersSection) -> list[str]:
    warnings = [
        "who rules the cluster of the key brokers has the keys: let it be their owner's, and not the platform's"
    ]
    address = database_address(brokers)
    if is_here(address) or address.host.startswith("/"):
        warnings.append(f"kubernetes.brokers.database: {address} is the brokers' own pod")
    monitoring = section.monitoring
    if monitoring is not None and brokers.admin_namespace != monitoring.namespace:
        warnings.append(
            f"Prometheus in {monitoring.namespace} reaches the brokers' metrics with "
            f"kubernetes.brokers.admin_namespace: {monitoring.namespace}, which is not set"
        )
    return warnings


def _steps(plan: Plan, brokers: KeyBrokersSection, output: Path) -> list[str]:
    namespace = shlex.quote(plan.namespace)
    owner = plan.deployment.state / "owner"
    files = " ".join(f"--from-file={_shorter(owner / name)}" for name in SECRET_FILES)
    steps = [
        f"kubectl apply -k {shlex.quote(str(output))}",
        f"kubectl -n {namespace} create secret generic {secret_name(plan)} {files}",
    ]
    database = brokers.database
    if database.secret is not None:
        keys = [f"--from-file={shlex.quote(key)}" for key in (database.password, database.authority) if key]
        steps.append(f"kubectl -n {namespace} create secret generic {database.secret} {' '.join(keys)}")
    steps.append(f"kubectl -n {namespace} rollout status deployment/{plan.broker_service}")
    if plan.section.monitoring is not None and plan.section.monitoring.operator:
        files = f"--from-file=token=prometheus.token --from-file=ca.pem={_shorter(owner / 'ca.pem')}"
        create = "sealserve broker admin token create prometheus --role viewer -o prometheus.token"
        steps.append(f"{create} -f {_shorter(owner / 'broker.yaml')}")
        steps.append(f"kubectl -n {namespace} create secret generic {broker_metrics_secret(plan)} {files}")
    return steps


def _shorter(path: Path) -> str:
    """A path for a command line, absolute or as it is from here."""
    return shlex.quote(min(str(path), os.path.relpath(path), key=len))
