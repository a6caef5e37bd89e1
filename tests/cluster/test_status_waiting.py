"""Replicas that cannot serve yet, in a real cluster: what they wait for, and how soon they serve when they can."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from small_model import write_doubling_model

from cluster.cluster import Cluster
from cluster.deployments import Owner, prepare
from cluster.running import Callers, administration, applied, sealserve, status, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def owner(kubernetes_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Owner:
    directory = tmp_path_factory.mktemp("waiting")
    changes = {"gateway": {"rest_listen": "127.0.0.1:8501"}, "replicas": {"count": 1, "threads": 1}}
    return prepare(kubernetes_cluster, directory, write_doubling_model(directory / "doubling"), changes, name="waiting")


def test_a_replica_waits_for_its_broker_says_so_and_serves_soon_after_it_is_there(owner: Owner) -> None:
    with applied(owner):
        found = until(owner, "waiting-for-broker", saying="waiting-broker.waiting.svc")
        assert "waiting-for-broker" in sealserve(owner, "status", codes=(5,))
        assert " broker-failed " in sealserve(owner, "logs")
        with owner.broker():
            started = time.monotonic()
            assert status(owner, "--wait", "60")["complete"]
            assert time.monotonic() - started < 30
            (replica,) = status(owner)["replicas"]
            assert (replica["pod"], replica["restarts"]) == (found["pod"], 0)
            assert replica["model"] == "doubling/1"


def test_a_refused_replica_gives_the_brokers_words_and_is_let_in_when_the_policy_is_mended(owner: Owner) -> None:
    with administration(owner) as broker:
        (right,) = broker.policies()
        broker.put_policy(replace(right, text=re.sub("(?<=mrenclave: )[0-9a-f]+", "ab" * 32, right.text)))
    with owner.broker(), applied(owner):
        refused = until(owner, "refused", saying="decision")
        assert refused["restarts"] == 0
        with administration(owner) as broker:
            broker.put_policy(right)
        assert status(owner, "--wait", "60")["complete"]


def test_a_pod_that_cannot_begin_says_what_it_lacks(owner: Owner) -> None:
    kubectl = owner.cluster.kubectl
    with owner.broker(), applied(owner):
        assert status(owner, "--wait", "90")["complete"]
        of = ("--namespace", owner.name)
        missing = "registry.test/none@sha256:" + 64 * "0"
        kubectl(*of, "set", "image", f"deployment/{owner.name}-replica", f"replica={missing}")
        until(owner, "image-unavailable", saying="registry.test")
        kubectl(*of, "rollout", "undo", f"deployment/{owner.name}-replica")
        kubectl(*of, "set", "resources", f"deployment/{owner.name}-replica", "--requests=cpu=90")
        until(owner, "unschedulable", saying="Insufficient cpu")
        assert status(owner)["serving"] == 1, "the old replica goes on"


def test_scaling_shares_traffic_at_once_and_leaving_replicas_lose_no_request(owner: Owner) -> None:
    with owner.broker(), applied(owner):
        assert status(owner, "--wait", "90")["complete"]
        with Callers(owner, count=24, pause=0.2) as callers:
            callers.until(2.0)
            told = sealserve(owner, "scale", "3")
            assert told.count("attested, serving") == 3
            ready = time.monotonic()
            time.sleep(10)
            after = time.monotonic()
            time.sleep(15)
            shares = callers.by_replica(after, time.monotonic())
            assert len(callers.by_replica(ready, after)) == 3, "a new replica got nothing in its first ten seconds"
            sealserve(owner, "scale", "1")
            gone = time.monotonic()
            time.sleep(2)
        assert callers.failures == []
        assert len(callers.by_replica(gone, time.monotonic())) == 1
        even = sum(shares.values()) / 3
        assert all(0.8 * even <= share <= 1.2 * even for share in shares.values()), shares
