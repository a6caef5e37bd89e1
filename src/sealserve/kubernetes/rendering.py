"""From ``deployment.yaml`` to a directory of YAML files, which ``kubectl apply -k``, Argo CD and Flux take.

The same deployment and the same sealserve give the same bytes. No secret is among them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from sealserve import __version__
from sealserve.deploy import Deployment, load_deployment
from sealserve.deploy.images.programs import brokers_of
from sealserve.deploy.images.sizing import EnclavePlan, model_bytes, plan_enclave
from sealserve.deploy.kubernetes_section import KubernetesSection
from sealserve.deploy.rendered_directory import require_replaceable, write_directory
from sealserve.errors import ConfigurationError, InputError
from sealserve.files import read_file
from sealserve.kubernetes.edges import edge_objects
from sealserve.kubernetes.monitoring import monitoring_objects
from sealserve.kubernetes.network import broker_service, network_policies
from sealserve.kubernetes.plan import Plan, check, is_here
from sealserve.kubernetes.pods import service_account
from sealserve.kubernetes.replicas import canary_objects, replica_objects
from sealserve.kubernetes.scaling import IN_FLIGHT, autoscaler
from sealserve.kubernetes.tee import platform_secret, tls_secret
from sealserve.kubernetes.yaml_text import Comment, Object, to_yaml

KUSTOMIZATION: Final = "kustomization.yaml"
RENDERED: Final = "Rendered by sealserve"
"""How files begin, after the sign of a comment."""

_IMAGE_VOLUMES = (1, 35)
_MIB = 1 << 20
_OUTSIDE_OF_ENCLAVE = "1Gi"  # Gramine's own part of the process, and files on their way in


@dataclass(frozen=True)
class Rendered:
    """A rendered directory.

    :ivar files: names in it, sorted. :ivar warnings: what should be known before it is applied.
    :ivar steps: commands to run, in this order, with which replicas come up.
    """

    directory: Path
    namespace: str
    files: tuple[str, ...]
    warnings: tuple[str, ...]
    steps: tuple[str, ...]


def render_kubernetes(deployment_file: Path, output: Path, *, model_size: int | None = None) -> Rendered:
    """Render the deployment's objects into a directory.

    :param model_size: bytes of the model, if it is not at ``model.path``.
    :raises InputError: the directory holds something else, or a file of the deployment is missing.
    :raises ConfigurationError: the deployment cannot run in a cluster as it is. :raises ModelError: there is no model.
    """
    deployment = load_deployment(deployment_file)
    section = check(deployment)
    require_replaceable(output, lambda: written_earlier(output))
    plan = _plan(deployment, section, model_size=model_size)
    files = render_files(plan)
    write_directory(output, files)
    return Rendered(
        output, plan.namespace, tuple(sorted(files)), tuple(warnings_about(plan)), tuple(_steps(plan, output))
    )


def plan_deployment(deployment_file: Path, *, model_size: int | None = None) -> Plan:
    """What is known of the deployment before its objects are made; parameters and errors as above."""
    deployment = load_deployment(deployment_file)
    return _plan(deployment, check(deployment), model_size=model_size)


def render_files(plan: Plan) -> dict[str, str]:
    """The files, by name."""
    return with_kustomization(objects_by_file(plan), title=_title(plan))


def with_kustomization(contents: Mapping[str, list[Object]], *, title: str) -> dict[str, str]:
    """The text of files and of a kustomization that names them."""
    files = {name: to_yaml(objects, title=title) for name, objects in contents.items()}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(contents),
    }
    return files | {KUSTOMIZATION: to_yaml([kustomization], title=title)}


def objects_by_file(plan: Plan) -> dict[str, list[Object]]:
    """All objects but those with secrets in them, by the file that they are written to. The namespace is the first."""
    contents: dict[str, list[Object]] = {
        "namespace.yaml": [namespace_object(plan)],
        "replica.yaml": [
            service_account(plan, plan.replica, "replica"),
            *replica_objects(plan),
            *autoscaler(plan),
        ],
        "canary.yaml": canary_objects(plan),
        "edge.yaml": edge_objects(plan),
        "broker.yaml": broker_service(plan),
        "network-policy.yaml": network_policies(plan),
        "monitoring.yaml": monitoring_objects(plan),
    }
    return {name: objects for name, objects in contents.items() if objects}


def _title(plan: Plan) -> str:
    text = f"{RENDERED} {__version__} (`sealserve k8s render`): change deployment.yaml and render it again."
    if plan.deployment.tee == "simulated":
        text += (
            " SIMULATED: replicas are ordinary processes, whose evidence is under a root of its own. Everybody who "
            "rules this cluster can read the model, its key, inputs and answers."
        )
    return text


def namespace_object(plan: Plan) -> Object:
    """The namespace, under the *restricted* Pod Security Standard."""
    labels: Object = dict(plan.all_labels("namespace"))
    labels[Comment("No pod here is privileged, root, or near the node: Kubernetes refuses those that ask for it.")] = (
        None
    )
    for mode in ("enforce", "audit", "warn"):
        labels[f"pod-security.kubernetes.io/{mode}"] = "restricted"
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": plan.namespace, "labels": labels}}


def _plan(deployment: Deployment, section: KubernetesSection, *, model_size: int | None) -> Plan:
    sgx = deployment.tee == "sgx"
    sizes: EnclavePlan | None = None
    if sgx or section.resources.memory == "auto":
        size = model_bytes(deployment.model.path) if model_size is None else model_size
        sizes = plan_enclave(deployment, model_size=size)
    memory = section.resources.memory
    if memory == "auto":
        memory = _OUTSIDE_OF_ENCLAVE if sizes is None or sgx else f"{-(-sizes.needed // _MIB)}Mi"
    threads = deployment.replicas.threads
    cpu = section.resources.cpu
    if cpu == "auto":
        cpu = "1" if threads == "auto" else str(threads)
    return Plan(
        deployment=deployment,
        section=section,
        brokers=tuple(brokers_of(deployment)),
        memory=memory,
        cpu=cpu,
        enclave=sizes.size if sgx and sizes is not None else None,
        broker_ca=None if sgx else broker_authority(deployment),
    )


def broker_authority(deployment: Deployment) -> str:
    """Certificate authority of the key brokers, PEM. :raises InputError: there is none here."""
    path = deployment.image.broker_ca or deployment.state / "owner" / "ca.pem"
    if not path.is_file():
        raise InputError(
            f"there is no {path}, the certificate authority of the key brokers",
            hint="`sealserve prepare` makes it, or image.broker_ca names it.",
        )
    try:
        return read_file(path).decode("ascii")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is no certificate in PEM", hint="image.broker_ca names the file.") from None


def written_earlier(output: Path) -> set[str]:
    """The files that an earlier rendering wrote, by its kustomization; none if it is not one of ours."""
    try:
        text = read_file(output / KUSTOMIZATION).decode()
        return {KUSTOMIZATION, *yaml.safe_load(text)["resources"]} if text.startswith(f"# {RENDERED}") else set()
    except (InputError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return set()


def warnings_about(plan: Plan, version: tuple[int, int] = (0, 0)) -> list[str]:
    """What should be known before the objects are applied. :param version: of the cluster, if it is known."""
    warnings = []
    if plan.deployment.tee == "simulated":
        warnings.append("SIMULATED: these replicas protect nothing from the cluster that they run in.")
    if is_here(listen := plan.deployment.broker.listen, wildcard=False):
        warnings.append(
            f"broker.listen: {listen} is for this machine alone: no pod reaches a key broker that `sealserve prepare` "
            "sets up for it"
        )
    if plan.section.sealed_model.image is not None and version < _IMAGE_VOLUMES:
        warnings.append(
            "the sealed model comes as an image volume, which needs Kubernetes 1.35, or 1.33 with the feature gate "
            "ImageVolume"
        )
    return [*warnings, *_warnings_about_load(plan)]


def _warnings_about_load(plan: Plan) -> Iterator[str]:
    section, measured = plan.section, plan.deployment.tee == "sgx"
    if section.autoscaling is not None and section.autoscaling.through == "prometheus":
        yield (
            f"the autoscaler asks for {IN_FLIGHT}, which prometheus-adapter has to be told: the rule is in "
            "docs/kubernetes-monitoring.md"
        )
    if section.monitoring is not None and measured:
        yield "replicas tell metrics if their image was built with kubernetes.monitoring: their arguments are measured"
    if section.canary is not None and measured:
        yield "the canary has another measurement: the policies of key brokers and clients have to know both"


def _steps(plan: Plan, output: Path) -> list[str]:
    namespace = shlex.quote(plan.namespace)
    steps = [f"kubectl apply -k {shlex.quote(str(output))}"]
    secret = f"kubectl -n {namespace} create secret generic"
    if plan.deployment.tee == "simulated":
        machine = plan.deployment.state / "platform" / "simulated" / "machine"
        shorter = min(str(machine), os.path.relpath(machine), key=len)
        steps.append(f"{secret} {platform_secret(plan)} --from-file={shlex.quote(shorter)}")
    elif plan.unmodified:
        steps.append(f"{secret} {tls_secret(plan)} --from-file=ssl_configure/sealed")
    return [*steps, f"kubectl -n {namespace} rollout status deployment/{plan.replica}"]
