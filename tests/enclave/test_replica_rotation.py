"""A broker process, a replica process and clients that do not stop asking, while the owner changes things."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest
from replica_parties import Callers, Place, answer

from sealserve.client import Client, attest
from sealserve.evidence import AppraisalPolicy


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "place")


def claimed(place: Place, port: int) -> list[tuple[int, bytes]]:
    """Versions and digests in fresh evidence."""
    return [(model.version, model.digest) for model in attest(f"127.0.0.1:{port}", place.client_policy()).claims.models]


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_rotation_fails_no_request_and_ends_the_old_key(place: Place) -> None:
    with place.broker() as broker, place.replica() as replica, place.client(replica) as client:
        port = replica.until("replica-ready")["port"]
        with Callers(client) as callers:
            callers.more()
            assert claimed(place, port) == [(1, place.first)]
            with place.administration() as administration:
                assert administration.rotate_key("wrap").version == 2
            new = place.seal(place.directory / "new", factor=3, version=2, key_version=2)
            old_files = place.directory / "old"
            place.sealed.rename(old_files)
            (place.directory / "new").rename(place.sealed)
            with place.administration() as administration:
                administration.switch_grant("d", digest=new, key_version=2, model_version=2)
            assert replica.until("model-served", 2)["key_version"] == 2
            with place.administration() as administration:
                revision = administration.grant("d").revision
            replica.until("grant-followed", saying=f'"revision": {revision}')
            callers.more()
            assert claimed(place, port) == [(2, new)]
            with place.administration() as administration:
                administration.retire_key("wrap", 1, grace=timedelta(0))
            callers.more()
        assert callers.failures == []
        for mine in callers.answers:
            assert mine == sorted(mine), "a caller saw the old model after the new one"
            assert set(mine) == {2.0, 3.0}

        with place.replica(sealed=old_files) as late:
            assert late.wait() == 4, "the old key is not released any more"
            assert late.events("previous-model-tried") == []
        granted = broker.events("grant-released")[-1]
        assert granted["keys"] == [{"name": "wrap", "version": 2}]
        assert replica.stop() == 0


@pytest.mark.slow
def test_resealing_the_same_model_under_a_new_key_changes_nothing_in_memory(place: Place) -> None:
    with place.broker(), place.replica() as replica, place.client(replica) as client:
        with place.administration() as administration:
            administration.rotate_key("wrap")
            administration.switch_grant("d", digest=place.first, key_version=2)
        replica.until("granted-model-unusable")  # the storage is still sealed under the old key
        assert place.seal(place.directory / "new", factor=2, version=1, key_version=2) == place.first
        place.bring(place.directory / "new")
        assert replica.until("key-rotated")["key_version"] == 2
        assert len(replica.events("model-loaded")) == 1
        assert answer(client) == 2
        assert replica.stop() == 0


def test_storage_without_the_new_model_or_with_a_damaged_one_keeps_the_old_one(place: Place) -> None:
    with place.broker(), place.replica() as replica, place.client(replica) as client:
        port = replica.until("replica-ready")["port"]
        new = place.seal(place.directory / "new", factor=3, version=2)
        with Callers(client) as callers:
            with place.administration() as administration:
                administration.switch_grant("d", digest=new, model_version=2)
            replica.until("granted-model-unusable")
            callers.more()
            assert claimed(place, port) == [(1, place.first)]

            good = place.directory / "good"
            place.seal(good, factor=3, version=2)
            flip_a_byte(place.directory / "new" / "2" / "saved_model.pb")
            place.bring(place.directory / "new")
            replica.until("granted-model-unusable", saying="saved_model.pb")
            callers.more()
            assert claimed(place, port) == [(1, place.first)]
            assert {value for mine in callers.answers for value in mine} == {2.0}

            place.bring(good)
            replica.until("model-served", 2)
            callers.more()
            assert claimed(place, port) == [(2, new)]
        assert callers.failures == []
        assert replica.stop() == 0


@pytest.mark.slow
def test_brokers_that_are_down_stop_nothing_and_are_found_again(place: Place) -> None:
    with place.broker() as broker, place.replica() as replica, place.client(replica) as client:
        with Callers(client) as callers:
            replica.until("grant-followed")
            assert broker.stop() == 0
            replica.until("brokers-unavailable")
            callers.more()
            new = place.seal(place.directory / "new", factor=3, version=2)
            place.bring(place.directory / "new")
            with place.administration() as administration:
                administration.switch_grant("d", digest=new, model_version=2)
            with place.broker():
                replica.until("grant-followed", 2)
                callers.more()
        assert callers.failures == []
        assert answer(client) == 3
        assert len(replica.events("brokers-unavailable")) == 1, "it is logged when it begins"
        assert replica.stop() == 0


def test_one_refusal_stops_nothing_and_a_revoked_measurement_stops_the_replica(place: Place) -> None:
    with place.broker(), place.replica() as replica, place.client(replica) as client:
        replica.until("grant-followed")
        place.put_policy(os.urandom(32))
        replica.until("grant-refused")
        place.put_policy(place.mrenclave)
        replica.until("grant-followed", 2)
        assert answer(client) == 2

        place.put_policy(os.urandom(32))
        assert replica.wait() == 4
        assert [entry["in_a_row"] for entry in replica.events("grant-refused")][-3:] == [1, 2, 3]
        assert replica.events("service-ended")
        assert replica.events("replica-stopped") == []
        assert replica.log[-1]["reason"] == "grant-withdrawn"
        assert "decision" in replica.log[-1]["error"]
        assert "Traceback" not in "\n".join(replica.lines)


@pytest.mark.slow
def test_a_model_that_must_not_be_served_any_more_ends_the_service_if_the_new_one_never_comes(place: Place) -> None:
    with place.broker(), place.replica() as replica:
        replica.until("replica-ready")
        with place.administration() as administration:
            administration.switch_grant("d", digest=os.urandom(32), model_version=2, keep_previous=False)
        assert replica.wait() == 4
        assert len(replica.events("served-model-withdrawn")) == 3
        assert replica.log[-1]["reason"] == "model-withdrawn"


@pytest.mark.slow
def test_many_rotations_in_a_row_fail_no_request(place: Place) -> None:
    with place.broker(), place.replica() as replica, place.client(replica) as client:
        with Callers(client) as callers:
            for version in range(2, 8):
                callers.more()
                with place.administration() as administration:
                    administration.rotate_key("wrap")
                digest = place.seal(place.directory / "new", factor=version + 1, version=version, key_version=version)
                place.bring(place.directory / "new")
                with place.administration() as administration:
                    administration.switch_grant("d", digest=digest, key_version=version, model_version=version)
                    administration.retire_key("wrap", version - 1, grace=timedelta(0))
                replica.until("model-served", version)
            callers.more()
        assert callers.failures == []
        assert all(mine == sorted(mine) and mine[-1] == 8 for mine in callers.answers)
        assert replica.stop() == 0


@pytest.mark.parametrize("scheme", ["", "https://"])
def test_clients_that_pin_both_models_fail_no_request_when_one_follows_the_other(place: Place, scheme: str) -> None:
    policy = place.policy(place.mrenclave)
    document = json.loads(policy.read_text())
    with place.broker(), place.replica("--rest-listen", "127.0.0.1:0") as replica:
        ready = replica.until("replica-ready")
        new = place.seal(place.directory / "new", factor=3, version=2)
        policy.write_text(json.dumps(document | {"models": [place.first.hex(), new.hex()]}))
        target = f"{scheme}127.0.0.1:{ready['rest_port' if scheme else 'port']}"
        with Client(target, AppraisalPolicy.load(policy)) as client, Callers(client) as callers:
            callers.more()
            place.bring(place.directory / "new")
            with place.administration() as administration:
                administration.switch_grant("d", digest=new, model_version=2)
            replica.until("model-served", 2)
            callers.more()
        assert callers.failures == []
        assert {value for mine in callers.answers for value in mine} == {2.0, 3.0}
