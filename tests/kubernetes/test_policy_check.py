"""Whether the key broker would let replicas in, judged before they are applied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from live_case import Case

from sealserve.broker.administration import UnknownNameError
from sealserve.broker.audit_reading import AuditFilter, Page
from sealserve.broker.store import GrantDocument, StoredPolicy
from sealserve.broker.store.documents import StoredGrant
from sealserve.kubernetes.live import kinds
from sealserve.kubernetes.live.errors import NotPermittedError
from sealserve.kubernetes.live.policy_check import (
    MEASUREMENT,
    GrantedPolicy,
    Measurement,
    annotated,
    granted_policy,
    judge,
    measure_replicas,
    recorded_reason,
)

_OLD = Measurement(64 * "a", 64 * "5", 1, 3)
_NEW = Measurement(64 * "b", 64 * "5", 1, 4)
_HINT = "To let them in: do this."


class _Broker:
    """A broker with one policy, which accepts ``enclaves``, and one grant."""

    def __init__(self, *enclaves: dict[str, Any], tee: str = "sgx", **arguments: str) -> None:
        text = yaml.safe_dump({"tee": tee, "collateral": {"service": "intel"}, "enclaves": list(enclaves)})
        self._policy = StoredPolicy("replicas", text)
        model = {"name": "classifier", "version": 1, "digest": 64 * "c", "mount": "/models/classifier", "key": "model"}
        grant = {"deployment": "photos", "policy": "replicas", "keys": {"model": 1}, "model": model}
        grant["arguments"] = {"engine": "openvino", "precision": "f32", "threads": "4", **arguments}
        self._grant = StoredGrant(GrantDocument.model_validate(grant))

    def grant(self, deployment: str, /) -> StoredGrant:
        if deployment != "photos":
            raise UnknownNameError("there is no grant")
        return self._grant

    def policy(self, name: str, /) -> StoredPolicy:
        assert name == "replicas"
        return self._policy

    def granted(self) -> GrantedPolicy:
        return granted_policy(self, "photos")


def _build(measurement: Measurement) -> dict[str, Any]:
    return {"mrenclave": measurement.mrenclave}


@pytest.fixture
def sgx(case: Case) -> Case:
    """A deployment for SGX, of which replicas run that measure to ``_OLD``."""
    case.plan, objects = case.deployment("nginx-sgx")
    case.objects = objects
    case.apply(annotated(objects, {"photos-replica": _OLD}))
    return case


def _judge(case: Case, broker: _Broker, new: Measurement = _NEW, **options: Any) -> Any:
    return judge(case.cluster, case.plan, {"photos-replica": new}, broker.granted(), permitted_by=_HINT, **options)


def test_a_policy_that_knows_both_builds_lets_them_follow_each_other(sgx: Case) -> None:
    verdict = _judge(sgx, _Broker(_build(_OLD), _build(_NEW)))
    assert (verdict.answer, verdict.warnings) == ("permitted", ())


def test_a_build_that_the_policy_does_not_know_is_refused_with_the_way_to_permit_it(sgx: Case) -> None:
    with pytest.raises(NotPermittedError, match=f"does not accept MRENCLAVE {_NEW.mrenclave}") as caught:
        _judge(sgx, _Broker(_build(_OLD)))
    assert (caught.value.hint, caught.value.exit_code) == (_HINT, 4)


def test_a_policy_that_has_forgotten_what_runs_is_refused_unless_a_gap_is_allowed(sgx: Case) -> None:
    broker = _Broker(_build(_NEW))
    with pytest.raises(NotPermittedError, match=f"{_OLD.mrenclave[:16]}….* within 300 seconds"):
        _judge(sgx, broker)
    assert any("lose their grant" in warning for warning in _judge(sgx, broker, allow_gap=True).warnings)


@pytest.fixture
def tried(case: Case) -> Case:
    """A deployment for SGX with a canary, which runs."""
    case.plan, case.objects = case.deployment("gateway-canary-sgx")
    case.server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "photos"}})
    case.apply(annotated(case.objects, {"photos-replica": _OLD, "photos-replica-canary": _NEW}))
    return case


def test_a_canary_is_judged_by_its_own_measurement(tried: Case) -> None:
    new = {"photos-replica": _OLD, "photos-replica-canary": _NEW}
    both = _Broker(_build(_OLD), _build(_NEW)).granted()
    assert judge(tried.cluster, tried.plan, new, both, permitted_by=_HINT).answer == "permitted"
    with pytest.raises(NotPermittedError, match="every pod of photos-replica-canary would be refused"):
        judge(tried.cluster, tried.plan, new, _Broker(_build(_OLD)).granted(), permitted_by=_HINT)
    with pytest.raises(NotPermittedError, match=f"{_NEW.mrenclave[:16]}….* within 300 seconds"):
        judge(tried.cluster, tried.plan, {"photos-replica": _OLD}, _Broker(_build(_OLD)).granted(), permitted_by=_HINT)


def test_of_a_canary_without_a_signature_it_is_said_that_nothing_is_known(tried: Case, tmp_path: Path) -> None:
    measured = measure_replicas(tried.plan, tmp_path / "nowhere")
    assert "--canary-signature" in str(measured["photos-replica-canary"])
    new = {**measured, "photos-replica": _OLD}
    both = _Broker(_build(_OLD), _build(_NEW)).granted()
    verdict = judge(tried.cluster, tried.plan, new, both, permitted_by=_HINT)
    assert verdict.answer == "unknown"
    assert verdict.reasons[0].startswith("what photos-replica-canary measures to is not known")
    with pytest.raises(NotPermittedError, match="every pod of photos-replica would"):
        judge(tried.cluster, tried.plan, new, _Broker(_build(_NEW)).granted(), permitted_by=_HINT)


def test_each_deployment_of_replicas_says_what_its_pods_measure_to(tried: Case) -> None:
    noted = {
        name: tried.server.get(kinds.DEPLOYMENT, name)["metadata"]["annotations"][MEASUREMENT]
        for name in ("photos-replica", "photos-replica-canary")
    }
    assert noted == {"photos-replica": _OLD.to_annotation(), "photos-replica-canary": _NEW.to_annotation()}


def test_what_does_not_serve_has_nothing_to_lose(sgx: Case) -> None:
    for each in sgx.server.find(kinds.REPLICA_SET):
        each["status"]["readyReplicas"] = 0
    assert _judge(sgx, _Broker(_build(_NEW))).answer == "permitted"


def test_replicas_that_others_made_are_said_to_be_unknown(sgx: Case) -> None:
    for each in sgx.server.find(kinds.REPLICA_SET):
        each["metadata"]["annotations"].pop(MEASUREMENT, None)
    assert any("is not known" in warning for warning in _judge(sgx, _Broker(_build(_NEW))).warnings)
    sgx.server.denied = {"replicasets"}
    assert any("is not known" in warning for warning in _judge(sgx, _Broker(_build(_NEW))).warnings)


@pytest.mark.parametrize(
    ("entry", "accepted"),
    [
        ({"minimum_isv_svn": 4}, True),
        ({"minimum_isv_svn": 5}, False),
        ({"isv_prod_id": 2}, False),
        ({"mrsigner": 64 * "6"}, False),
        ({"mrenclave": _OLD.mrenclave}, False),
        ({"mrenclave": _NEW.mrenclave}, True),
    ],
)
def test_a_signer_is_judged_with_product_and_version(sgx: Case, entry: dict[str, Any], accepted: bool) -> None:
    signer = {"mrsigner": _NEW.mrsigner, "isv_prod_id": 1, "minimum_isv_svn": 3, **entry}
    sgx.server.objects.clear()
    if accepted:
        assert _judge(sgx, _Broker(signer)).answer == "permitted"
    else:
        with pytest.raises(NotPermittedError):
            _judge(sgx, _Broker(signer))


def test_a_policy_for_another_kind_of_platform_is_refused(sgx: Case) -> None:
    sgx.plan = replace(sgx.plan, deployment=sgx.plan.deployment.model_copy(update={"tee": "simulated"}))
    with pytest.raises(NotPermittedError, match="is for tee: sgx, and these replicas are simulated"):
        _judge(sgx, _Broker(_build(_NEW)))


def test_a_broker_without_a_grant_is_refused() -> None:
    with pytest.raises(NotPermittedError, match="no grant for other"):
        granted_policy(_Broker(_build(_NEW)), "other")


def test_what_cannot_be_known_is_said_and_stops_nothing(sgx: Case, tmp_path: Path) -> None:
    unknown = measure_replicas(sgx.plan, tmp_path / "nowhere")
    assert isinstance(unknown["photos-replica"], str)
    verdict = judge(sgx.cluster, sgx.plan, unknown, "its store is not here", permitted_by=_HINT)
    assert verdict.answer == "unknown"
    assert len(verdict.reasons) == 2


def test_a_grant_for_another_model_than_was_sealed_here_is_warned_of(sgx: Case) -> None:
    client = sgx.plan.deployment.state / "client"
    client.mkdir(parents=True)
    for digest, warned in ((64 * "c", False), (64 * "d", True)):
        policy = {"tee": "sgx", "collateral": {"service": "intel"}, "enclaves": [_build(_NEW)], "models": [digest]}
        (client / "policy.yaml").write_text(yaml.safe_dump(policy))
        warnings = _judge(sgx, _Broker(_build(_OLD), _build(_NEW))).warnings
        assert any("replicas load only what the grant names" in warning for warning in warnings) == warned


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"threads": "2"}, "replicas.threads 4, not 2."),
        ({"engine": "tensorflow"}, "model.engine openvino, not tensorflow."),
        ({"batching": "max_batch_size { value: 8 }"}, "model.batching nothing, not max_batch_size { value: 8 }."),
        ({"other": "x\x1by"}, "arguments.other is another."),
    ],
)
def test_a_grant_with_other_arguments_is_warned_of_and_refuses_nothing(
    sgx: Case, arguments: dict[str, str], told: str
) -> None:
    verdict = _judge(sgx, _Broker(_build(_OLD), _build(_NEW), **arguments))
    assert verdict.answer == "permitted"
    assert len(verdict.warnings) == 1
    assert told in verdict.warnings[0]


def test_a_file_of_batching_parameters_that_is_not_here_stops_nothing(sgx: Case, tmp_path: Path) -> None:
    model = sgx.plan.deployment.model.model_copy(update={"batching": tmp_path / "nowhere"})
    sgx.plan = replace(sgx.plan, deployment=sgx.plan.deployment.model_copy(update={"model": model}))
    (warning,) = _judge(sgx, _Broker(_build(_OLD), _build(_NEW))).warnings
    assert "was not looked at" in warning


def test_the_measurement_is_no_part_of_the_pods_so_that_it_rolls_nothing(sgx: Case) -> None:
    before = [pod["metadata"]["name"] for pod in sgx.server.find(kinds.POD)]
    sgx.apply(annotated(sgx.objects, {"photos-replica": _NEW}))
    assert [pod["metadata"]["name"] for pod in sgx.server.find(kinds.POD)] == before
    assert MEASUREMENT in sgx.server.get(kinds.DEPLOYMENT, "photos-replica")["metadata"]["annotations"]


def test_an_annotation_that_somebody_else_wrote_is_no_measurement() -> None:
    assert Measurement.from_annotation(_NEW.to_annotation()) == _NEW
    for text in (None, "", "x", "[]", "{}", '{"mrenclave": "x"}', 100_000 * "["):
        assert Measurement.from_annotation(text) is None


def test_the_brokers_own_words_are_found_by_the_decisions_number() -> None:
    class Audit:
        def latest(self, wanted: AuditFilter, *, limit: int) -> Page:
            record = {"decision": "0123456789abcdef", "deployment": "photos", "detail": "MRENCLAVE is another"}
            return Page([record][:limit] if wanted.admits(record) else [], None)

    said = "the key broker refused to release a key (not-granted, decision {})"
    assert recorded_reason(Audit(), "photos", said.format("0123456789abcdef")) == "MRENCLAVE is another"
    assert recorded_reason(Audit(), "photos", said.format("0000000000000000")) is None
    assert recorded_reason(Audit(), "other", said.format("0123456789abcdef")) is None
    assert recorded_reason(Audit(), "photos", "no number") is None
