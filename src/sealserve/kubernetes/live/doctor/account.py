"""The API server, who is asking, and what that account may do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from sealserve.deploy.doctor import Finding, Level
from sealserve.kubernetes.live.answers import HOW_TO_BE_PERMITTED
from sealserve.kubernetes.live.doctor.question import Question
from sealserve.kubernetes.live.kinds import POD, SECRET, Kind, kind_of
from sealserve.kubernetes.live.rights import is_allowed
from sealserve.kubernetes.plan import OLDEST_VERSION

_IMAGE_VOLUMES, _IMAGE_VOLUMES_BY_GATE = (1, 35), (1, 33)
_WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_THREADS = 8
_TO_APPLY, _TO_DELETE = ("get", "create", "patch"), ("delete",)


def examine_version(question: Question) -> Iterator[Finding]:
    """Whether the API server is new enough."""
    version = question.cluster.version()
    text = f"{version[0]}.{version[1]}"
    oldest = tuple(int(part) for part in OLDEST_VERSION.split("."))
    if version < oldest:
        mend = f"Upgrade the cluster to {OLDEST_VERSION} or later."
        yield Finding("version", "problem", f"Kubernetes {text} is older than {OLDEST_VERSION}", mend)
    else:
        yield Finding("version", "ok", f"Kubernetes {text} at {question.cluster.server}")
    if question.plan.section.sealed_model.image is None or version >= _IMAGE_VOLUMES:
        return
    text = f"the sealed model comes as an image volume, which Kubernetes {text} "
    mend = "Use kubernetes.sealed_model.claim, or Kubernetes 1.35."
    if version < _IMAGE_VOLUMES_BY_GATE:
        yield Finding("image-volume", "problem", f"{text}does not have", mend)
    else:
        yield Finding("image-volume", "warning", f"{text}has with the feature gate ImageVolume only", mend)


def examine_account(question: Question) -> Iterator[Finding]:
    """Who the kubeconfig stands for, and what is not permitted of what applying, looking and deleting need."""
    told = question.cluster.post(
        _WHO, {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}, of="asking who this is"
    )
    yield Finding("account", "ok", f"you are {told['status']['userInfo'].get('username', 'nobody')} there")
    kinds = list(dict.fromkeys([*map(kind_of, question.objects), SECRET]))
    wanted: list[tuple[Level, Kind, str, str]] = [
        *(("problem", kind, verb, "") for kind in kinds for verb in _TO_APPLY),
        *(("warning", kind, verb, "") for kind in kinds for verb in _TO_DELETE),
        *(("warning", POD, verb, "") for verb in ("list", "watch")),
        ("warning", POD, "get", "log"),
    ]

    def allowed(one: tuple[Level, Kind, str, str]) -> bool:
        _, kind, verb, part = one
        return is_allowed(question.cluster, verb, kind, question.plan.namespace, subresource=part)

    with ThreadPoolExecutor(_THREADS) as pool:
        answers = list(pool.map(allowed, wanted))
    for level, purpose in (("problem", "applying"), ("warning", "logs, progress and deleting")):
        denied: dict[str, list[str]] = {}
        for one, answer in zip(wanted, answers, strict=True):
            if not answer and one[0] == level:
                plural = f"{one[1].plural}/{one[3]}" if one[3] else one[1].plural
                denied.setdefault(plural, []).append(one[2])
        if denied:
            missing = "; ".join(f"{', '.join(verbs)} {plural}" for plural, verbs in denied.items())
            yield Finding(
                "permissions",
                "problem" if level == "problem" else "warning",
                f"you may not do what {purpose} needs: {missing}",
                HOW_TO_BE_PERMITTED,
            )
    if all(answers):
        yield Finding("permissions", "ok", "you may apply, watch and delete everything that is rendered")
