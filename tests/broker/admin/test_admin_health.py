"""Metrics, health and readiness."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from unittest import mock

import pytest
from admin_parties import add_admin, administered, make_token
from broker_parties import OTHER_ENCLAVE, Place, ask, full_disk, in_loop
from prometheus_client.parser import text_string_to_metric_families

from sealserve import __version__
from sealserve.broker.client import BrokerRefusedError, BrokersUnavailableError
from sealserve.broker.statistics import SECONDS, Statistics
from sealserve.broker.store import Store, StoreUnavailableError
from sealserve.evidence.policy import AppraisalPolicy
from sealserve.ratls import TlsIdentity


def values(text: bytes) -> dict[tuple[str, ...], float]:
    """Samples by name and the values of labels, these in the order of their names."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found[
                (
                    sample.name.removeprefix("sealserve_broker_"),
                    *(sample.labels[label] for label in sorted(sample.labels)),
                )
            ] = sample.value
    return found


def test_metrics_count_what_the_broker_does(place: Place, identity: TlsIdentity) -> None:
    add_admin(place)
    token = make_token(place, "viewer")

    async def body() -> None:
        async with administered(place, token) as (broker, http):
            for _ in range(3):
                await ask(place, broker, identity)
            with pytest.raises(BrokerRefusedError):
                await ask(place, broker, identity, attester=place.attester(OTHER_ENCLAVE))
            with full_disk(), pytest.raises(BrokersUnavailableError):
                await ask(place, broker, identity, timeout=0.5)
            answer = await http("GET", "/metrics")
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            found = values(answer.body)
            assert found["decisions_total", "granted", "2", ""] == 3
            assert found["decisions_total", "refused", "2", "measurement-refused"] == 1
            assert found["decisions_total", "refused", "2", "audit-unavailable"] >= 1
            assert found["evidence_total", "UpToDate", "simulated"] >= 4
            decided = sum(value for key, value in found.items() if key[0] == "decisions_total")
            assert found["decision_duration_seconds_bucket", "+Inf"] == decided
            assert found["decision_duration_seconds_count",] == decided
            assert found["decision_duration_seconds_sum",] > 0
            assert found["audit_records_total",] == 4
            assert found["audit_failures_total",] >= 1
            assert found["handshakes_total", "completed"] >= 5
            assert found["connections_open",] == 0
            assert found["grants",] == 1
            assert found["key_versions", "active"] == 2
            assert found["key_versions", "destroyed"] == 0
            assert found["store_trusted",] == 1
            assert found["store_revision",] == broker.revision
            assert found["build_info", __version__] == 1
            assert found["process_resident_memory_bytes",] > 0
            (expiry,) = [value for key, value in found.items() if key[0] == "collateral_expiry_timestamp_seconds"]
            assert expiry > time.time()
            again = values((await http("GET", "/metrics")).body)
            assert again["admin_requests_total", "200", "GET"] == 1

    in_loop(body)


def test_metrics_need_authentication_unless_they_are_open(place: Place) -> None:
    add_admin(place)

    async def refused() -> None:
        async with administered(place) as (_, http):
            assert (await http("GET", "/metrics")).status == 401

    in_loop(refused)
    add_admin(place, metrics="open")

    async def opened() -> None:
        async with administered(place) as (_, http):
            assert (await http("GET", "/metrics")).status == 200
            assert (await http("GET", "/v1/keys")).status == 401

    in_loop(opened)


def test_a_broker_that_cannot_record_is_alive_and_not_ready(
    place: Place, identity: TlsIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_admin(place)
    monkeypatch.setattr("sealserve.broker.admin.health._SECONDS", 0.0)

    async def body() -> None:
        async with administered(place) as (broker, http):
            ready = await http("GET", "/readyz")
            assert (ready.status, ready.value) == (
                200,
                {"ready": True, "checks": {"store": "ok", "audit": "ok", "collateral": "ok"}},
            )
            with full_disk(), pytest.raises(BrokersUnavailableError):
                await ask(place, broker, identity, timeout=0.5)
            ready = await http("GET", "/readyz")
            assert (ready.status, ready.value["checks"]["audit"]) == (503, "audit-unavailable")
            assert (await http("GET", "/healthz")).status == 200
            assert (await http("HEAD", "/healthz")).status == 200
            await ask(place, broker, identity)
            assert (await http("GET", "/readyz")).status == 200
            (place.directory / "broker.db").rename(place.directory / "away.db")
            (place.directory / "broker.db").mkdir()
            told = json.dumps((await http("GET", "/readyz")).value)
            assert str(place.directory) not in told

    in_loop(body)


def test_a_broker_is_ready_again_when_there_is_room_again_though_nobody_asks_it(
    place: Place, identity: TlsIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_admin(place)
    monkeypatch.setattr("sealserve.broker.admin.health._SECONDS", 0.0)
    monkeypatch.setattr("sealserve.broker.server._LOOK_AGAIN_SECONDS", 0.05)

    async def body() -> None:
        async with administered(place) as (broker, http):
            unavailable = mock.patch.object(Store, "probe_audit", side_effect=StoreUnavailableError("the disk is full"))
            with full_disk(), unavailable:
                with pytest.raises(BrokersUnavailableError):
                    await ask(place, broker, identity, timeout=0.5)
                await asyncio.sleep(0.3)
                assert broker.statistics.audit_failure == "audit-unavailable"
            await asyncio.sleep(0.5)
            assert (await http("GET", "/readyz")).status == 200
            assert broker.statistics.audit_failure is None

    in_loop(body)


def test_expired_collateral_is_a_reason_not_to_be_ready(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    add_admin(place)
    past = datetime.now(UTC) - timedelta(seconds=1)
    monkeypatch.setattr(AppraisalPolicy, "collateral_expiry", lambda _self: {"sgx 00": past, "sgx 01": None})

    async def body() -> None:
        async with administered(place) as (_, http):
            ready = await http("GET", "/readyz")
            assert (ready.status, ready.value["checks"]["collateral"]) == (503, "expired for 1 of 1 deployments")

    in_loop(body)


def test_a_policys_collateral_file_has_an_expiry(place: Place) -> None:
    policy = AppraisalPolicy.load(place.directory / "policy.yaml")
    (expires,) = policy.collateral_expiry().values()
    assert expires is not None
    assert expires > datetime.now(UTC)
    (place.directory / "platform" / "collateral.json").write_text("{}")
    assert list(policy.collateral_expiry().values()) == [None]


def test_durations_fall_into_buckets() -> None:
    statistics = Statistics()
    for seconds in (0.0005, SECONDS[0], 0.0011, 11.0):
        statistics.decided(2, "granted", "", seconds)
    assert statistics.durations[:2] == [2, 1]
    assert statistics.durations[-1] == 1
