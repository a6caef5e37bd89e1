"""Evidence ages, replicas die and come back."""

from __future__ import annotations

import threading

import pytest
from client_parties import SECRET_INPUT, free_port

from sealserve.client import Client, ConnectionLostError
from sealserve.errors import PolicyRefusedError, UnavailableError
from sealserve.evidence.errors import EvidenceBindingError

INPUTS = {"images": SECRET_INPUT}
pytestmark = [pytest.mark.usefixtures("both_clients"), pytest.mark.parametrize("protocol", ["grpc", "rest"])]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_first_request_after_the_age_waits_for_fresh_evidence(replica, policy):
    clock = Clock()
    with Client(replica.target, policy, max_evidence_age=300, clock=clock) as client:
        first = client.predict(INPUTS, model="classifier").verified
        clock.now += 300
        assert client.predict(INPUTS, model="classifier").verified is first
        clock.now += 1
        second = client.predict(INPUTS, model="classifier").verified
    assert replica.log == ["GetEvidence", "Predict", "Predict", "GetEvidence", "Predict"]
    assert second.nonce != first.nonce


def test_evidence_that_is_refused_at_its_renewal_stops_a_live_connection(start_good, policy):
    clock = Clock()
    recorded = []

    def honest_once(nonce):
        recorded.append(replica.honest_evidence(nonce))
        return recorded[0]

    replica = start_good(evidence=honest_once)
    with Client(replica.target, policy, clock=clock) as client:
        client.predict(INPUTS, model="classifier")
        clock.now += 301
        with pytest.raises(EvidenceBindingError):
            client.predict(INPUTS, model="classifier")
    assert replica.predicted == 1


def test_a_clock_that_goes_back_makes_evidence_old(replica, policy):
    clock = Clock()
    with Client(replica.target, policy, clock=clock) as client:
        client.predict(INPUTS, model="classifier")
        clock.now -= 10
        client.predict(INPUTS, model="classifier")
    assert replica.asked == 2


def test_a_replica_that_dies_mid_request_is_replaced_by_one_that_is_checked(
    start_good, second_replica, balance, policy
):
    def die(request, context):
        balancer.targets = [second_replica.target]
        balancer.cut()
        return first.honest_predict(request, context)

    first = start_good(predict=die)
    balancer = balance(first.target)
    with Client(balancer.target, policy) as client:
        assert client.predict(INPUTS, model="classifier").replica == "replica-2"
    assert first.predicted == 1
    assert second_replica.log == ["GetEvidence", "Predict"]


def test_a_replica_that_dies_mid_request_is_not_replaced_by_one_that_is_not_accepted(
    start_good, bad_replica, balance, policy
):
    def die(request, context):
        balancer.targets = [bad_replica.target]
        balancer.cut()
        return first.honest_predict(request, context)

    first = start_good(predict=die)
    balancer = balance(first.target)
    with Client(balancer.target, policy) as client, pytest.raises(PolicyRefusedError):
        client.predict(INPUTS, model="classifier")
    assert bad_replica.log == ["GetEvidence"]


def test_an_input_that_fells_replicas_is_not_sent_without_end(start_good, balance, policy):
    def die(request, context):
        balancer.cut()
        return replica.honest_predict(request, context)

    replica = start_good(predict=die)
    balancer = balance(replica.target)
    with Client(balancer.target, policy) as client, pytest.raises(ConnectionLostError):
        client.predict(INPUTS, model="classifier")
    assert replica.predicted == 3


def test_when_all_replicas_die_and_return_the_call_waits_for_them(replica, balance, policy):
    balancer = balance(replica.target)
    with Client(balancer.target, policy) as client:
        client.predict(INPUTS, model="classifier")
        balancer.targets = [f"127.0.0.1:{free_port()}"]
        balancer.cut()
        threading.Timer(0.4, balancer.targets.__setitem__, (0, replica.target)).start()
        client.predict(INPUTS, model="classifier", timeout=20)
    assert replica.predicted == 2


def test_when_all_replicas_stay_dead_the_deadline_ends_it_with_the_cause(replica, balance, policy):
    balancer = balance(replica.target)
    with Client(balancer.target, policy) as client:
        client.predict(INPUTS, model="classifier")
        balancer.targets = [f"127.0.0.1:{free_port()}"]
        balancer.cut()
        with pytest.raises(UnavailableError, match="TLS session"):
            client.predict(INPUTS, model="classifier", timeout=0.5)


def test_a_replica_that_stops_gracefully_still_answers(start_good, second_replica, balance, policy):
    stopping = []

    def stop_and_answer(request, context):
        stopping.append(first.stop(grace=10))
        return first.honest_predict(request, context)

    first = start_good(predict=stop_and_answer)
    balancer = balance(first.target, second_replica.target)
    with Client(balancer.target, policy) as client:
        assert client.predict(INPUTS, model="classifier").replica == "replica-1"
        assert stopping[0].wait(10)
        assert client.predict(INPUTS, model="classifier").replica == "replica-2"
    assert first.predicted == 1


def test_a_connection_that_died_while_idle_is_not_used(replica, balance, policy, monkeypatch):
    monkeypatch.setattr("sealserve.client.retries._SENDINGS", 1)  # so that a sending in vain would be an error
    balancer = balance(replica.target)
    with Client(balancer.target, policy) as client:
        client.predict(INPUTS, model="classifier")
        balancer.cut()
        client.predict(INPUTS, model="classifier")
    assert replica.predicted == 2
    assert replica.asked == 1
