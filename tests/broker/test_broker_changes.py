"""A running broker follows the store: rotation, retirement, revocation; and strangers cannot fill it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import timedelta

import pytest
from broker_parties import DIGEST, SECOND_KEY, WRAP_KEY, Place, answer_of, ask, full_disk, in_loop, running, session
from hypothesis import given
from hypothesis import strategies as st
from test_broker_store import sql

from sealserve.allowance import BURST, SECONDS_EACH
from sealserve.broker.audit import AuditUnavailableError
from sealserve.broker.audit_writer import AuditWriter
from sealserve.broker.client import BrokersUnavailableError, Grant, GrantRefusedError
from sealserve.broker.grants import GrantsUnavailableError
from sealserve.broker.messages import Refused, write_frame
from sealserve.broker.server import Broker
from sealserve.broker.strangers import Strangers
from sealserve.ratls import TlsIdentity

NEW_DIGEST = "cd" * 32


async def until_revision(broker: Broker, place: Place) -> None:
    with place.store() as store:
        revision = store.mark()[0]
    async with asyncio.timeout(10):
        while broker.revision < revision:  # noqa: ASYNC110 - a test may poll
            await asyncio.sleep(0.02)


def seen(grant: Grant) -> tuple[int, str, tuple[int, str] | None]:
    """Key version and digest, now and before."""
    previous = grant.previous and (grant.previous.key.version, grant.previous.model.digest.hex())
    return grant.keys["wrap"].version, grant.model.digest.hex(), previous


def test_a_key_is_rotated_without_a_restart(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            first = await ask(place, broker, identity)
            assert seen(first) == (3, DIGEST, None)
            assert first.refresh_seconds == 300
            with place.administration() as administration:
                administration.rotate_key("wrap")
                _, value = administration.key_value("wrap", 4, purpose="test")
                await until_revision(broker, place)
                assert seen(await ask(place, broker, identity)) == (3, DIGEST, None), (
                    "a new version alone changes nothing"
                )

                administration.switch_grant("digits", digest=bytes.fromhex(NEW_DIGEST), key_version=4)
                await until_revision(broker, place)
                switched = await ask(place, broker, identity)
                assert seen(switched) == (4, NEW_DIGEST, (3, DIGEST))
                assert switched.revision > first.revision
                assert switched.keys["wrap"].value == value
                assert switched.previous
                assert bytes(switched.previous.key.value.reveal()) == WRAP_KEY
                assert (await ask(place, broker, identity, keys=("second",))).previous is None

                administration.retire_key("wrap", 3, grace=timedelta(seconds=2))
                await until_revision(broker, place)
                assert seen(await ask(place, broker, identity))[2] == (3, DIGEST)
                await asyncio.sleep(2)
                assert seen(await ask(place, broker, identity)) == (4, NEW_DIGEST, None), "nobody had to carry it out"
        assert place.records[-2]["previous_model"]["key"] == {"name": "wrap", "version": 3}
        with place.store() as store:
            assert store.verify_audit().records > len(place.records)
        switched.wipe()
        assert len(switched.keys["wrap"].value) == 0

    in_loop(body)


def test_a_retired_or_destroyed_key_is_not_released(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            with place.administration() as administration:
                administration.retire_key("wrap", 3, grace=timedelta(0), force=True)
                await until_revision(broker, place)
                with pytest.raises(GrantRefusedError):
                    await ask(place, broker, identity)
                assert place.records[-1]["reason"] == "key-not-released"
                grant = await ask(place, broker, identity, keys=("second",))
                assert bytes(grant.keys["second"].value.reveal()) == SECOND_KEY
                administration.destroy_key("second", 1, confirmation="second", force=True)
                await until_revision(broker, place)
                with pytest.raises(GrantRefusedError):
                    await ask(place, broker, identity, keys=("second",))
        async with running(place) as broker:
            with pytest.raises(GrantRefusedError):
                await ask(place, broker, identity)

    in_loop(body)


def test_a_deleted_grant_and_a_new_one_are_seen(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            with place.administration() as administration:
                administration.delete_grant("digits")
            await until_revision(broker, place)
            with pytest.raises(GrantRefusedError):
                await ask(place, broker, identity)
            place.put(deployment="letters")
            await until_revision(broker, place)
            assert (await ask(place, broker, identity, deployment="letters")).keys

    in_loop(body)


def test_a_broker_goes_on_over_a_new_master_key(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            with place.store() as store:
                store.rewrap("test")
            await until_revision(broker, place)
            assert await ask(place, broker, identity)
            with place.store() as store:
                store.finish_rewrap()
            place.put(refresh_seconds=60)
            await until_revision(broker, place)
            assert (await ask(place, broker, identity)).refresh_seconds == 60

    in_loop(body)


def test_a_store_that_was_tampered_with_releases_nothing_until_it_is_right_again(
    place: Place, identity: TlsIdentity
) -> None:
    async def body() -> None:
        async with running(place) as broker:
            assert await ask(place, broker, identity)
            sql(place, "UPDATE grants SET text = replace(text, ?, ?)", DIGEST, NEW_DIGEST)
            sql(place, "UPDATE store SET revision = revision + 1")
            with pytest.raises(GrantsUnavailableError):  # noqa: PT012
                for _ in range(500):
                    assert broker.grants
                    await asyncio.sleep(0.02)
            with pytest.raises(BrokersUnavailableError, match="cannot decide now"):
                await ask(place, broker, identity, timeout=1)
            assert place.records[-1]["reason"] == "grants-unavailable"

    in_loop(body)


# --- group commit ---------------------------------------------------------------------------------------------------


def test_decisions_that_wait_together_share_a_commit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        with place.store() as store:
            commits = []
            real = store.append_audit
            monkeypatch.setattr(
                store,
                "append_audit",
                lambda records, **options: commits.append(len(records)) or real(records, **options),
            )
            writer = AuditWriter(store, broker="b")
            heads = await asyncio.gather(*(writer.append({"event": "decision", "number": n}) for n in range(100)))
            await writer.close()
            assert len(set(heads)) == 100
            assert len(commits) < 10
            with pytest.raises(AuditUnavailableError):
                await writer.append({"event": "decision"})
        numbers = [record["number"] for record in place.records]
        assert numbers == list(range(100))
        assert place.chain[-1]["event"] == "checkpoint"

    in_loop(body)


def test_a_commit_that_fails_fails_for_all_who_wait_and_the_next_works(place: Place) -> None:
    async def body() -> None:
        with place.store() as store:
            writer = AuditWriter(store, broker="b")
            with full_disk():
                results = await asyncio.gather(
                    *(writer.append({"event": "decision"}) for _ in range(5)), return_exceptions=True
                )
            assert {type(result) for result in results} == {AuditUnavailableError}
            assert await writer.append({"event": "decision"})
            await writer.close()
            store.check()
        assert len(place.records) == 1

    in_loop(body)


def test_a_checkpoint_comes_at_least_every_thousand_records(place: Place) -> None:
    with place.store() as store:
        for _ in range(25):
            store.append_audit([{"event": "decision"} for _ in range(100)])
        store.verify_audit()
    events = Counter(record["event"] for record in place.chain[-2502:])
    assert events["checkpoint"] == 2


# --- strangers ------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 30), max_size=400))
def test_strangers_are_recorded_at_a_bounded_rate_and_none_is_forgotten(pauses: list[float]) -> None:
    time = 0.0
    strangers = Strangers(lambda: time)
    admitted = 0
    for pause in pauses:
        time += pause
        admitted += strangers.admit("protocol")
    assert admitted <= BURST + time / SECONDS_EACH + 1
    summary = strangers.summary()
    assert admitted + (summary["refused"] if summary else 0) == len(pauses)
    assert strangers.summary() is None


def test_a_flood_of_garbage_is_counted_and_attested_enclaves_are_recorded_beside_it(
    place: Place, identity: TlsIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealserve.allowance.BURST", 2)

    async def body() -> None:
        async with running(place) as broker:
            for _ in range(6):
                async with session(place, broker, identity) as (stream, _):
                    await write_frame(stream, b"garbage")
                    answer = await answer_of(stream)
                assert isinstance(answer, Refused)
                assert answer.reason == "bad-request"
            for _ in range(4):
                assert await ask(place, broker, identity)
        outcomes = Counter(record["outcome"] for record in place.records)
        assert outcomes == {"refused": 2, "granted": 4}
        (summary,) = [record for record in place.chain if record["event"] == "strangers"]
        assert (summary["refused"], summary["reasons"]) == (4, {"protocol": 4})
        assert json.dumps(summary)

    in_loop(body)
