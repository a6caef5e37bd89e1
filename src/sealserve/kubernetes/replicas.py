"""The replicas: their Deployments and Services, and where the sealed model comes from."""

from __future__ import annotations

import math
from hashlib import sha256

from sealserve.deploy.images.layout import GRPC_PORT, REST_PORT, STOP_GRACE
from sealserve.deploy.images.programs import connection_age
from sealserve.kubernetes.plan import Plan, Track
from sealserve.kubernetes.pods import (
    container_security,
    disruption_budget,
    drain,
    pod_security,
    rolling_update,
    spread,
)
from sealserve.kubernetes.tee import TeeParts, host_directory, tee_parts
from sealserve.kubernetes.yaml_text import Comment, Object

REPLICA_USER = 10001
_ROLLOUT_SECONDS = 900  # a large enclave and a large model
_WAIT_SECONDS = 86_400
_GIVEN_UP_SECONDS = 60
_HEARD_SECONDS = 7  # nginx asks DNS every 2 seconds, which may keep an answer for 5


def replica_objects(plan: Plan) -> list[Object]:
    """Everything of the replicas but their account, policies and autoscaler."""
    parts = tee_parts(plan, plan.stable.image)
    volume = (
        [] if plan.section.sealed_model.host_path is None else _host_model(plan, plan.section.sealed_model.host_path)
    )
    return [*parts.objects, *volume, *_track_objects(plan, plan.stable, parts)]


def canary_objects(plan: Plan) -> list[Object]:
    """The replicas of an image that is tried. What all replicas share is not theirs."""
    canary = plan.canary
    return [] if canary is None else _track_objects(plan, canary, tee_parts(plan, canary.image))


def _track_objects(plan: Plan, track: Track, parts: TeeParts) -> list[Object]:
    return [
        _headless_service(plan, track),
        _deployment(plan, track, parts),
        disruption_budget(plan, track.deployment, track.component),
    ]


def _headless_service(plan: Plan, track: Track) -> Object:
    """A name that DNS has every ready replica's address for."""
    return plan.object(
        "v1",
        "Service",
        track.service,
        track.component,
        spec={
            "clusterIP": "None",
            "selector": plan.labels(track.component),
            "ports": [{"name": name, "port": port, "targetPort": name} for name, port in plan.ports.items()],
        },
    )


def _deployment(plan: Plan, track: Track, parts: TeeParts) -> Object:
    annotations = {**parts.annotations, **_settings_digest(plan)}
    count: Object = {"replicas": track.count}
    if track.count is None:
        count = {Comment("No replicas here: how many there are is the autoscaler's to say."): None}
    spec = {
        **count,
        "strategy": rolling_update(),
        Comment("An old replica goes when the edge has heard of the new one that takes its place."): None,
        "minReadySeconds": _HEARD_SECONDS,
        Comment("A rollout whose pods get no key is said to have failed, and the old pods stay."): None,
        "progressDeadlineSeconds": _ROLLOUT_SECONDS,
        "selector": {"matchLabels": plan.labels(track.component)},
        "template": {
            "metadata": {
                "labels": plan.all_labels(track.component),
                **({"annotations": annotations} if annotations else {}),
            },
            "spec": _pod(plan, track, parts),
        },
    }
    return plan.object("apps/v1", "Deployment", track.deployment, track.component, spec=spec)


def _settings_digest(plan: Plan) -> Object:
    """An annotation that changes with files that pods read when they start, so that a change is rolled out."""
    if plan.broker_ca is None:
        return {}
    return {"sealserve.dev/broker-ca": sha256(plan.broker_ca.encode()).hexdigest()[:16]}


def _pod(plan: Plan, track: Track, parts: TeeParts) -> Object:
    return {
        "serviceAccountName": plan.replica,
        "automountServiceAccountToken": False,
        Comment("Names of Services as environment variables: nobody reads them here."): None,
        "enableServiceLinks": False,
        "securityContext": pod_security(REPLICA_USER),
        Comment(
            f"{_drain_seconds(plan)} seconds until nobody sends new requests, {STOP_GRACE} for those in flight, "
            "and some more."
        ): None,
        "terminationGracePeriodSeconds": _drain_seconds(plan) + STOP_GRACE + 15,
        "topologySpreadConstraints": spread(plan, track.component),
        **({"tolerations": parts.tolerations} if parts.tolerations else {}),
        **({"initContainers": parts.init_containers} if parts.init_containers else {}),
        "containers": [_container(plan, track, parts)],
        "volumes": [
            _sealed_model(plan),
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            *parts.volumes,
        ],
    }


def _drain_seconds(plan: Plan) -> int:
    """So long that every connection has been closed in good order by then: their age differs by a tenth (gRPC), and the
    edge goes on making them until it has heard that the pod leaves.
    """
    return math.ceil(connection_age(plan.deployment) * 11 / 10) + _HEARD_SECONDS


def _container(plan: Plan, track: Track, parts: TeeParts) -> Object:
    ports = plan.ports | ({} if plan.metrics_port is None else {"metrics": plan.metrics_port})
    return {
        "name": "replica",
        "image": track.image,
        **({"args": parts.arguments} if parts.arguments else {}),
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "resources": {
            "requests": {"cpu": plan.cpu, "memory": plan.memory, **parts.resources},
            Comment(
                "No limit for CPU: it would stop threads in the middle of a request while the node has time to spare."
            ): None,
            "limits": {
                "memory": plan.memory,
                **{name: amount for name, amount in parts.resources.items() if not isinstance(name, Comment)},
            },
        },
        "securityContext": container_security(),
        Comment(
            "What a replica says last is why it ended: it is kept with the pod, where everybody looks first."
        ): None,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **_probes(plan),
        "lifecycle": drain(_drain_seconds(plan)),
        "volumeMounts": [
            {"name": "sealed", "mountPath": parts.sealed_mount, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            *parts.mounts,
        ],
    }


def _probes(plan: Plan) -> Object:
    # kubelet's gRPC probe speaks no TLS, and its HTTPS probe has no certificate to show.
    if plan.rest and plan.deployment.tls.mode != "two-way":
        ready: Object = {"httpGet": {"path": "/readyz", "port": REST_PORT, "scheme": "HTTPS"}}
        alive: Object = {"httpGet": {"path": "/livez", "port": REST_PORT, "scheme": "HTTPS"}}
        why = "/readyz says yes when the key was granted and the model is loaded."
    else:
        ready = alive = {"tcpSocket": {"port": GRPC_PORT}}
        why = (
            "The port opens when the key was granted and the model is loaded, and closes before the replica ends. "
            "kubelet can ask for no more: its gRPC probe has no TLS, and REST "
            + ("asks for a client's certificate." if plan.rest else "is off (gateway.rest_listen).")
        )
    return {
        Comment(why): None,
        Comment("A replica that waits for its key broker must not be ended: it is given a day."): None,
        "startupProbe": {**ready, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": _WAIT_SECONDS // 2},
        Comment("Three in a row: a replica that is busy must not lose its share to others that are as busy."): None,
        "readinessProbe": {**ready, "periodSeconds": 2, "timeoutSeconds": 3, "failureThreshold": 3},
        "livenessProbe": {
            **alive,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": _GIVEN_UP_SECONDS // 10,
        },
    }


def _claim(plan: Plan) -> str:
    return plan.section.sealed_model.claim or f"{plan.name}-sealed-model"


def _sealed_model(plan: Plan) -> Object:
    image = plan.section.sealed_model.image
    if image is not None:
        return {"name": "sealed", "image": {"reference": image, "pullPolicy": "IfNotPresent"}}
    return {"name": "sealed", "persistentVolumeClaim": {"claimName": _claim(plan), "readOnly": True}}


def _host_model(plan: Plan, path: str) -> list[Object]:
    why = "The sealed model, on every node. A pod may have no hostPath under the restricted standard; this may."
    return host_directory(plan, _claim(plan), path, size="1Gi", why=why)
