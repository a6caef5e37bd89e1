"""Trouble of the broker's own is no verdict on anybody's evidence, is told loudly, and stalls nobody else."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import pkgutil
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from broker_parties import ENCLAVE, WRAP_KEY, Place, answer_of, ask, in_loop, make_place, name_of, running, session
from test_broker_version1 import answer, provision
from test_broker_version2 import evidence_for

import sealserve.broker
import sealserve.evidence
import sealserve.ratls
from sealserve.broker.client import request_grant
from sealserve.broker.messages import ProtocolError, Refused, write_frame
from sealserve.broker.refusals import general_reason
from sealserve.broker.troubles import SECONDS_EACH, Troubles
from sealserve.errors import EvidenceError, PolicyRefusedError, SealserveError
from sealserve.evidence import create_simulated_platform, refresh_collateral
from sealserve.evidence.errors import CollateralExpiredError
from sealserve.ratls import TlsIdentity

# Every reason for which evidence is not accepted, by what the enclave is told.
VERDICTS = """
    ambiguous-grant certificate-evidence certificate-expired certificate-not-yet-valid collateral-mismatch
    debug-enclave evidence evidence-binding evidence-disagreement evidence-refused key-binding key-not-released
    machine-refused measurement-refused no-client-certificate no-grant-accepts platform-refused policy-refused
    quote-malformed quote-unsupported quoting-enclave-refused receipt-malformed receipt-signature revoked
    security-version-refused signature-invalid simulated-evidence-refused tcb-refused tcb-revoked unknown-grant
    unsafe-attributes untrusted-root unverifiable-evidence
"""
TROUBLES = """
    audit-tampered audit-unavailable collateral collateral-expired collateral-malformed collateral-not-yet-valid
    collateral-revoked collateral-rollback collateral-service collateral-signature-invalid collateral-untrusted
    collateral-unusable configuration grants-unavailable input machine store-missing store-tampered
    store-unavailable trust unavailable wrong-master-key
"""


def kinds(base: type[SealserveError]) -> Iterator[type[SealserveError]]:
    yield base
    for kind in base.__subclasses__():
        yield from kinds(kind)


def reason_of(kind: type[SealserveError]) -> str:
    return str(SealserveError.reason.fget(kind.__new__(kind)))  # type: ignore[attr-defined]


def test_every_reason_is_a_verdict_or_the_brokers_own_trouble() -> None:
    rooms = (sealserve.broker, sealserve.evidence, sealserve.ratls)
    for room in rooms:
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            importlib.import_module(module.name)
    told: dict[str, set[str]] = {"not-granted": set(), "unavailable": set(), "bad-request": set()}
    # Other tests may have loaded other rooms.
    ours = ("sealserve.errors", *(room.__name__ for room in rooms))
    for kind in kinds(SealserveError):
        if kind.__module__.startswith(ours):
            told[general_reason(kind.__new__(kind))].add(reason_of(kind))
    assert set(kinds(ProtocolError)) == {ProtocolError}
    assert told["bad-request"] == {"protocol"}
    assert told["not-granted"] == set(VERDICTS.split())
    verdicts = (kind for base in (EvidenceError, PolicyRefusedError) for kind in kinds(base))
    judged = {reason_of(kind) for kind in verdicts if kind.__module__.startswith(ours)}
    assert judged - set(VERDICTS.split()) <= set(TROUBLES.split())
    assert not set(VERDICTS.split()) & told["unavailable"]
    assert set(TROUBLES.split()) <= told["unavailable"]
    assert general_reason(RuntimeError("a defect")) == "unavailable"


def spoil(place: Place, how: str) -> None:
    collateral = place.platform / "collateral.json"
    now = datetime.now(UTC)
    if how == "expired":
        refresh_collateral(place.platform, now=now - timedelta(days=60))
    elif how == "from the future":
        refresh_collateral(place.platform, now=now + timedelta(days=2))
    elif how == "malformed":
        collateral.write_text("{}")
    elif how == "missing":
        collateral.unlink()
    elif how == "of another root":
        create_simulated_platform(place.directory / "elsewhere")
        shutil.copy(place.directory / "elsewhere" / "collateral.json", collateral)
    elif how == "changed":
        fields = json.loads(collateral.read_text())
        fields["tcb_info"] = fields["tcb_info"].replace('"tcbEvaluationDataNumber":', '"tcbEvaluationDataNumber": 1')
        collateral.write_text(json.dumps(fields))
    else:
        raise AssertionError(how)


SPOILED = {
    "expired": "collateral-expired",
    "from the future": "collateral-not-yet-valid",
    "malformed": "collateral-malformed",
    "missing": "input",
    "of another root": "collateral-untrusted",
    "changed": "collateral-signature-invalid",
}


async def expect_unavailable(place: Place, broker: Any, identity: TlsIdentity, reason: str) -> None:
    async with session(place, broker, identity) as (stream, nonce):
        await write_frame(stream, evidence_for(place, stream, nonce, identity))
        told = await answer_of(stream)
    assert isinstance(told, Refused)
    assert told.reason == "unavailable"
    records = place.records
    assert {(record["outcome"], record["reason"]) for record in records} == {("refused", reason)}


@pytest.mark.parametrize("how", SPOILED)
def test_collateral_that_cannot_be_used_is_no_verdict(
    place: Place, identity: TlsIdentity, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with running(place) as broker:
            spoil(place, how)
            caplog.clear()
            await expect_unavailable(place, broker, identity, SPOILED[how])
        (told,) = [record for record in caplog.records if record.msg == "cannot-decide"]
        assert told.levelno == logging.ERROR
        fields: dict[str, Any] = told.fields  # type: ignore[attr-defined]
        assert fields["reason"] == SPOILED[how]
        assert fields["detail"] == place.records[0]["detail"]

    in_loop(body)


def with_service(place: Place, port: int, name: str = "policy") -> None:
    """Give a policy a collateral service at a port of this machine."""
    policy = {
        "tee": "simulated",
        "trust_root": "platform/root.pem",
        "collateral": {"service": f"https://127.0.0.1:{port}/sgx/certification/v4/", "timeout_seconds": 2},
        "enclaves": [{"mrenclave": ENCLAVE.mrenclave.hex()}],
        "insecure_accept_simulated_platform": True,
    }
    (place.directory / f"{name}.yaml").write_text(json.dumps(policy))
    place.put_policy(name)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Somebody listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        yield listening.getsockname()[1]


def test_a_service_that_is_down_is_no_verdict(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        with_service(place, port)
        async with running(place) as broker:
            await expect_unavailable(place, broker, identity, "collateral-service")

    in_loop(body)


def test_the_next_broker_is_asked(
    place: Place, identity: TlsIdentity, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def body() -> None:
        second = make_place(tmp_path_factory.mktemp("second"))
        shutil.copytree(place.platform, second.platform, dirs_exist_ok=True)
        for name in ("broker.pem", "broker.key"):
            shutil.copy(place.directory / name, second.directory / name)
        second.put_policy()
        async with running(place) as broker, running(second) as other:
            spoil(place, "expired")
            # The brokers have their collateral apart: only the first one's is spoiled.
            grant = await request_grant(
                [name_of(broker), name_of(other)],
                ca_pem=place.authority.pem,
                identity=identity,
                attester=place.attester(),
                deployment="digits",
            )
            assert bytes(grant.keys["wrap"].value.reveal()) == WRAP_KEY
            assert [record["outcome"] for record in second.records] == ["granted"]

    in_loop(body)


def test_who_waits_for_a_service_keeps_nobody_else_waiting(
    place: Place, identity: TlsIdentity, silent_port: int
) -> None:
    async def body() -> None:
        with_service(place, silent_port, "letters")
        place.put(deployment="letters", policy="letters")
        async with running(place) as broker:
            waiting = [
                asyncio.create_task(ask(place, broker, identity, deployment="letters", timeout=30)) for _ in range(40)
            ]
            await all_connected(broker, 40)
            for _ in range(5):
                grant = await ask(place, broker, identity)
                assert bytes(grant.keys["wrap"].value.reveal()) == WRAP_KEY
            assert not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    in_loop(body)


async def all_connected(broker: Any, number: int) -> None:
    while broker.counts().connections < number:  # noqa: ASYNC110 - the broker has no event for it
        await asyncio.sleep(0.01)


def test_version_1_gives_nothing_while_a_grant_cannot_be_judged(
    place: Place, identity: TlsIdentity, silent_port: int
) -> None:
    """The other grant might accept the enclave, too: which one is meant, nobody could say."""

    async def body() -> None:
        place.put(version_1={"key": "wrap"})
        with_service(place, silent_port, "letters")
        place.put(deployment="letters", policy="letters", version_1={"key": "second"})
        async with running(place) as broker:
            assert await provision(broker, identity) == b""
            assert place.records[-1]["reason"] == "collateral-service"
            with place.administration() as administration:
                administration.delete_grant("letters")
            broker._grants.refresh()
            assert await provision(broker, identity) == answer(WRAP_KEY)

    in_loop(body)


def test_trouble_is_told_when_it_begins_and_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    troubles = Troubles(lambda: now)
    for second in range(25):
        now = float(second)
        for _ in range(100):
            troubles.tell(CollateralExpiredError("expired"), "1")
        troubles.tell(KeyError("a defect"), "2")
    told = [record for record in caplog.records if record.msg == "cannot-decide"]
    assert len(told) == 3  # at 0, 10 and 20 seconds
    assert [record.fields["more_since"] for record in told] == [0, 999, 999]  # type: ignore[attr-defined]
    defects = [record for record in caplog.records if record.msg == "decision-failed"]
    assert len(defects) == 3
    assert all(record.exc_info for record in defects)
    assert SECONDS_EACH == 10
