"""When a rollout is over, as the status of its Deployment says it."""

from __future__ import annotations

from typing import Any

import pytest

from sealserve.kubernetes.live.progress_of import unfinished


def _deployment(generation: int = 2, **status: int) -> dict[str, Any]:
    return {
        "metadata": {"generation": 2},
        "spec": {"replicas": 2},
        "status": {"observedGeneration": generation, **status},
    }


@pytest.mark.parametrize(
    ("deployment", "why"),
    [
        (_deployment(1, replicas=2, updatedReplicas=2, readyReplicas=2), "its change is not seen yet"),
        (_deployment(replicas=3, updatedReplicas=1, readyReplicas=2), "1 of 2 new pods are made"),
        (_deployment(replicas=2, updatedReplicas=2, readyReplicas=1), "1 of 2 pods are ready"),
        # Those that are ready may be the old ones: as long as there are any, it is not over.
        (_deployment(replicas=4, updatedReplicas=2, readyReplicas=2), "2 old pods have yet to leave"),
        (
            _deployment(replicas=3, updatedReplicas=2, readyReplicas=3, availableReplicas=3),
            "1 old pods have yet to leave",
        ),
        # Ready, and for less than minReadySeconds.
        (_deployment(replicas=2, updatedReplicas=2, readyReplicas=2), None),
    ],
)
def test_it_is_over_when_all_pods_are_new_and_ready(deployment: dict[str, Any], why: str | None) -> None:
    assert unfinished(deployment) == why
