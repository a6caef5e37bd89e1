"""A replica that waits for its grant: when it asks again, and what it says meanwhile."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from pathlib import Path

import pytest
from replica_parties import Place

from sealserve.broker.client import BrokersUnavailableError, Grant, GrantRefusedError, ModelGrant
from sealserve.enclave import first_grant
from sealserve.enclave.first_grant import LONGEST_PAUSE, ask_until_granted
from sealserve.evidence.errors import AttestationError
from sealserve.ratls.contexts import ServerNotTrustedError

GRANT = Grant({}, ModelGrant("m", 1, b"\x01" * 32, "/models/m", "wrap"), {})
REFUSED = GrantRefusedError("b:1", "measurement", "77")
SILENT = BrokersUnavailableError([("b:1", "down")], 60)


def _told(
    answers: list[Grant | Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> tuple[list[int], list[float], list[str]]:
    """Ask until granted. :returns: with which broker each question began, the pauses, and what was logged."""
    first: list[int] = []
    pauses: list[float] = []

    async def ask(broker: int) -> Grant:
        first.append(broker)
        answer = answers[len(first) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(first_grant.asyncio, "sleep", sleep)
    monkeypatch.setattr(logging.getLogger("sealserve"), "propagate", True)
    with caplog.at_level(logging.INFO, "sealserve"):
        assert asyncio.run(ask_until_granted(ask)) is GRANT
    return first, pauses, [record.getMessage() for record in caplog.records]


def test_brokers_that_are_away_are_waited_for_without_another_pause(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, pauses, said = _told([SILENT, SILENT, GRANT], monkeypatch, caplog)
    assert (first, pauses) == ([0, 0, 0], [])
    assert said == ["waiting-for-broker", "waiting-for-broker"]


def test_after_a_refusal_the_next_broker_is_asked_and_pauses_grow_to_half_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, pauses, said = _told([*[REFUSED] * 40, GRANT], monkeypatch, caplog)
    assert first == list(range(41))
    assert 4 <= pauses[0] <= 6
    assert all(0.8 * LONGEST_PAUSE <= pause <= 1.2 * LONGEST_PAUSE for pause in pauses[4:])
    assert len(set(pauses)) > 30
    assert said == ["grant-refused"] * 40


def test_a_broker_of_somebody_else_is_waited_for_as_one_that_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = ServerNotTrustedError("b:1 has a certificate of another authority")
    _, pauses, said = _told([stranger, GRANT], monkeypatch, caplog)
    assert said == ["waiting-for-broker"]
    assert len(pauses) == 1


def test_a_machine_without_evidence_ends_the_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AttestationError, match="no quote"):
        _told([SILENT, AttestationError("no quote today")], monkeypatch, caplog)


@pytest.mark.slow
def test_a_replica_waits_for_its_broker_and_for_its_policy_and_then_serves(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    place.put_policy(b"\xff" * 32)
    with place.replica("--keep-asking") as replica:
        replica.until("broker-failed")
        time.sleep(4)  # longer than it would keep trying otherwise
        with place.broker():
            refused = replica.until("grant-refused")
            assert "decision" in refused["reason"]
            place.put_policy(place.mrenclave)
            replica.until("replica-ready")
    assert len(replica.events("broker-failed")) == 1


@pytest.mark.slow
def test_a_replica_that_waits_ends_at_once_when_it_is_told_to(tmp_path: Path) -> None:
    with Place(tmp_path / "place").replica("--keep-asking") as replica:
        replica.until("broker-failed")
        asked = time.monotonic()
        assert replica.stop() == 128 + signal.SIGTERM
        assert time.monotonic() - asked < 2
