"""Which replicas are marked as old, and from when on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from live_case import Case

from sealserve.kubernetes.live import kinds
from sealserve.kubernetes.live.errors import ForbiddenError
from sealserve.kubernetes.live.replica_state import ReplicaState, State
from sealserve.kubernetes.live.templates import TemplateReader, all_known, is_current, is_old, newest_first

_STABLE = ReplicaState("stable", "1", "node", State.SERVING, None, True, 0, None, "a", None)
_CANARY = replace(_STABLE, pod="canary", template="c", canary=True)


@pytest.fixture
def tried(case: Case) -> Case:
    """A deployment with a canary, in its cluster."""
    case.plan, case.objects = case.deployment("gateway-canary-sgx")
    case.server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "photos"}})
    case.apply()
    return case


def _read(case: Case, reader: TemplateReader | None = None) -> dict[str, str | None]:
    deployments = [each for each in case.server.find(kinds.DEPLOYMENT) if "replica" in each["metadata"]["name"]]
    return dict((reader or TemplateReader(case.cluster, case.plan)).read(deployments))


def _deployment(case: Case, name: str) -> dict[str, Any]:
    return case.server.get(kinds.DEPLOYMENT, name)


def test_each_deployments_own_template_is_read(tried: Case) -> None:
    templates = _read(tried)
    assert set(templates) == {"replica", "canary"}
    assert len(set(templates.values())) == 2
    assert all_known(templates)
    for pod in tried.server.find(kinds.POD):
        labels = pod["metadata"]["labels"]
        if (component := labels["app.kubernetes.io/component"]) in templates:
            assert templates[component] == labels["pod-template-hash"]


def test_a_canary_that_is_new_is_not_marked_because_the_others_are_known(tried: Case) -> None:
    _deployment(tried, "photos-replica-canary")["status"] = {}
    templates = _read(tried)
    assert set(templates) == {"replica"}
    assert not all_known(templates)
    assert not is_old(_CANARY, templates)
    assert is_old(_STABLE, templates)


def test_replicas_of_a_canary_that_is_not_asked_for_any_more_are_old(case: Case) -> None:
    case.apply()
    templates = _read(case)
    assert templates["canary"] is None
    assert is_old(_CANARY, templates)
    assert not is_current(replace(_CANARY, template=None), templates)


def test_a_revision_is_not_believed_before_the_change_that_it_is_to_tell(case: Case) -> None:
    case.apply()
    status = _deployment(case, "photos-replica")["status"]
    status["updatedReplicas"] = 0  # the number of replicas was changed with the template, and was seen first
    reader = TemplateReader(case.cluster, case.plan)
    assert "replica" not in _read(case, reader)
    status["updatedReplicas"] = 2
    assert "replica" in _read(case, reader)


def test_replica_sets_are_asked_for_once(tried: Case) -> None:
    reader = TemplateReader(tried.cluster, tried.plan)
    _read(tried, reader)
    before = tried.cluster.requests
    _read(tried, reader)
    assert tried.cluster.requests == before


def test_who_may_not_read_replica_sets_is_told(tried: Case) -> None:
    tried.server.denied = {"replicasets"}
    with pytest.raises(ForbiddenError):
        _read(tried)


def test_new_ones_come_first_and_of_these_what_needs_looking_at() -> None:
    new = replace(_STABLE, pod="new", template="b")
    waiting = replace(new, pod="waiting", state=State.STARTING)
    found = newest_first([_STABLE, new, waiting], {"replica": "b", "canary": None})
    assert [each.pod for each in found] == ["waiting", "new", "stable"]
