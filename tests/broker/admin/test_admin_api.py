"""The administration's operations, over HTTPS, on a broker that runs."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
from typing import Any

import pytest
from admin_parties import add_admin, administered, asking, eventually, make_token
from broker_parties import GRANT, WRAP_KEY, Place, ask, in_loop, running

from sealserve.broker.client import BrokerRefusedError
from sealserve.broker.store import Store
from sealserve.ratls import TlsIdentity


@pytest.fixture
def operated(place: Place) -> tuple[Place, str]:
    add_admin(place)
    return place, make_token(place)


def test_keys_are_made_rotated_imported_retired_and_destroyed(operated: tuple[Place, str]) -> None:
    place, token = operated
    value = base64.b64encode(b"0123456789abcdef").decode()

    async def body() -> None:
        async with administered(place, token) as (_, http):
            made = await http("POST", "/v1/keys", {"name": "new"})
            assert (made.status, made.value["version"], made.value["state"]) == (201, 1, "active")
            assert (await http("POST", "/v1/keys", {"name": "new"})).reason == "name-taken"
            assert (await http("POST", "/v1/keys/new/rotate")).value["version"] == 2
            imported = await http("POST", "/v1/keys/new/import", {"value": value, "version": 9})
            assert (imported.status, imported.value["version"]) == (201, 9)
            retired = await http("POST", "/v1/keys/new/versions/2/retire", {"grace_hours": 1})
            assert retired.value["state"] == "retiring"
            refused = await http("POST", "/v1/keys/new/versions/2/destroy", {"confirm": "old"})
            assert (refused.status, refused.reason) == (422, "not-confirmed")
            assert "hint" in refused.value
            gone = await http("POST", "/v1/keys/new/versions/2/destroy", {"confirm": "new"})
            assert gone.value["state"] == "destroyed"
            assert [key["version"] for key in (await http.get("/v1/keys/new"))["versions"]] == [1, 2, 9]
            assert (await http("GET", "/v1/keys/none")).reason == "unknown-name"
            assert (await http("POST", "/v1/keys/wrap/versions/3/retire", {})).reason == "in-use"
            assert (await http("POST", "/v1/keys/wrap/versions/4/retire", {})).status == 404
            everything = await http("GET", "/v1/keys")
            assert {item["name"] for item in everything.value["items"]} == {"new", "second", "wrap"}
            # No answer holds a value, in any form.
            for held in (WRAP_KEY, b"0123456789abcdef"):
                for form in (held, held.hex().encode(), base64.b64encode(held)):
                    assert form not in everything.body + imported.body

    in_loop(body)
    with place.store() as store, store.value(store.load().keys["new", 9]) as held:
        assert bytes(held.reveal()) == b"0123456789abcdef"
    changes = [r for r in place.chain if r["event"] == "change" and r.get("key") == "new"]
    assert [r["action"] for r in changes] == ["key-create", "key-rotate", "key-import", "key-retire", "key-destroy"]
    assert {r["actor"].partition("#")[0] for r in changes} == {"token:alice"}


def test_policies_and_grants_are_written_by_revision(operated: tuple[Place, str]) -> None:
    place, token = operated

    async def body() -> None:
        async with administered(place, token) as (_, http):
            policy = await http.get("/v1/policies/policy")
            written = {"text": policy["text"], "trust_root": policy["trust_root"]}
            new = await http("PUT", "/v1/policies/other", written, If_None_Match="*")
            assert new.status == 200
            assert (await http("PUT", "/v1/policies/other", written, If_None_Match="*")).status == 412
            edited = {**written, "text": policy["text"] + "minimum_tcb_evaluation_data_number: 1\n"}
            assert (await http("PUT", "/v1/policies/other", edited, If_Match='"1"')).reason == "changed-meanwhile"
            assert (await http("PUT", "/v1/policies/other", edited, If_Match=new.headers["ETag"])).status == 200
            assert (await http("PUT", "/v1/policies/other", edited, If_Match="x")).status == 400
            bad = await http("PUT", "/v1/policies/other", {**written, "text": "enclaves: []\n"})
            assert (bad.status, bad.reason) == (422, "configuration")
            assert "tee" in bad.value["detail"]

            grant = await http("PUT", "/v1/grants/letters", {**GRANT, "deployment": "letters", "policy": "other"})
            assert (grant.status, grant.value["policy"]) == (200, "other")
            assert (await http("DELETE", "/v1/policies/other")).reason == "in-use"
            assert (await http("PUT", "/v1/grants/letters", GRANT)).status == 422
            wrong = await http("PUT", "/v1/grants/letters", {**GRANT, "deployment": "letters", "keys": {"wrap": 99}})
            assert (wrong.status, wrong.reason) == (404, "unknown-name")
            switched = await http("POST", "/v1/grants/letters/switch", {"digest": "cd" * 32, "model_version": 8})
            assert switched.value["previous"]["model"]["digest"] == "ab" * 32
            assert switched.headers["ETag"] == f'"{switched.value["revision"]}"'
            stale = await http("POST", "/v1/grants/letters/switch", {"digest": "ef" * 32}, If_Match='"1"')
            assert stale.status == 412
            assert (await http("DELETE", "/v1/grants/letters")).value == {"deleted": "letters"}
            assert (await http("DELETE", "/v1/policies/other")).status == 200
            assert [item["deployment"] for item in (await http.get("/v1/grants"))["items"]] == ["digits"]
            assert [item["name"] for item in (await http.get("/v1/policies"))["items"]] == ["policy"]
            assert (await http.get("/v1/grants/digits"))["model"]["name"] == "digits"

    in_loop(body)


def test_a_change_over_https_decides_for_enclaves_at_once(operated: tuple[Place, str], identity: TlsIdentity) -> None:
    place, token = operated

    async def body() -> None:
        async with administered(place, token) as (broker, http):
            assert (await ask(place, broker, identity)).keys["wrap"].version == 3
            assert (await http("POST", "/v1/keys/wrap/rotate")).value["version"] == 4
            answer = await http("POST", "/v1/grants/digits/switch", {"digest": "cd" * 32, "key_version": 4})
            assert answer.status == 200

            async def switched() -> bool:
                return (await ask(place, broker, identity)).keys["wrap"].version == 4

            await eventually(switched)
            await http("DELETE", "/v1/grants/digits")

            async def refused() -> bool:
                try:
                    await ask(place, broker, identity)
                except BrokerRefusedError:
                    return True
                return False

            await eventually(refused)

    in_loop(body)


def test_the_audit_log_is_paged_filtered_followed_verified_and_exported(
    operated: tuple[Place, str], identity: TlsIdentity
) -> None:
    place, token = operated

    async def body() -> None:
        async with administered(place, token) as (broker, http):
            decisions = [(await ask(place, broker, identity)).decision for _ in range(5)]
            with pytest.raises(BrokerRefusedError):
                await ask(place, broker, identity, deployment="absent")

            async def page(query: str) -> Any:
                return await http.get(f"/v1/audit?{query}")

            head = await http.get("/v1/audit/head")
            newest = await page("limit=2")
            assert [record["sequence"] for record in newest["items"]] == [head["records"], head["records"] - 1]
            assert newest["items"][0]["hash"] == head["head"]
            assert newest["items"][0]["reason"] == "unknown-grant"

            granted, query = [], "event=decision&outcome=granted&limit=2"
            found = await page(query)
            while found["items"]:
                granted += [record["decision"] for record in found["items"]]
                found = await page(f"{query}&before={found['next']}") if found["next"] else {"items": []}
            assert granted == decisions[::-1]
            assert [r["decision"] for r in (await page(f"decision={decisions[2]}"))["items"]] == [decisions[2]]
            assert (await page("decision=none"))["items"] == []
            assert (await page("since=2100-01-01T00:00:00Z"))["items"] == []
            assert len((await page("until=2100-01-01T00:00:00Z&limit=1000"))["items"]) == head["records"]
            assert [r["deployment"] for r in (await page("outcome=refused"))["items"]] == ["absent"]

            later = await page(f"after={head['records'] - 1}&event=decision")
            assert [r["sequence"] for r in later["items"]] == [head["records"]]
            assert (await page(f"after={head['records']}")) == {"items": [], "next": head["records"]}

            for wrong in ("limit=0", "limit=x", "colour=red", "before=0", "after=1&before=2", "since=yesterday"):
                assert (await http("GET", f"/v1/audit?{wrong}")).status == 422, wrong
            assert (await http("GET", "/v1/audit?limit=1&limit=2")).reason == "bad-query"

            signed = (await http("POST", "/v1/audit/checkpoint")).value
            assert signed["records"] == head["records"] + 1
            verified = await http.get(f"/v1/audit/verify?head={head['head']}")
            assert (verified["records"], verified["signed"]) == (signed["records"], head["records"])
            assert (await http("GET", f"/v1/audit/verify?head={'0' * 63}1")).reason == "audit-tampered"
            assert "BEGIN PUBLIC KEY" in (await http.get("/v1/audit/public-key"))["public_key"]
            exported = await http("GET", "/v1/audit/export")
            assert exported.headers["Content-Type"] == "application/jsonl"
            assert len(exported.body.splitlines()) == signed["records"]
            with place.store() as store, store.audit_lines() as lines:
                assert exported.body == b"".join(line + b"\n" for line in lines)

    in_loop(body)


def test_the_fleet_is_who_got_keys_lately(operated: tuple[Place, str], identity: TlsIdentity) -> None:
    place, token = operated

    async def body() -> None:
        async with administered(place, token) as (broker, http):
            await ask(place, broker, identity)
            await ask(place, broker, identity)
            with pytest.raises(BrokerRefusedError):
                await ask(place, broker, identity, deployment="absent")
            fleet = await http.get("/v1/fleet")
            (enclave,) = fleet["items"]
            assert (enclave["deployment"], enclave["tcb_status"], enclave["tee"]) == ("digits", "UpToDate", "sgx")
            assert (enclave["simulated"], enclave["current"]) == (True, True)
            assert enclave["mrenclave"] == "11" * 32
            assert enclave["first_seen"] < enclave["last_seen"]
            assert {key["name"] for key in enclave["keys"]} == {"wrap", "second"}
            minutes = fleet["minutes"]
            assert len(minutes) == 60
            assert sum(minute["granted"] for minute in minutes) == 2
            assert sum(minute["refused"] for minute in minutes) == 1
            (collateral,) = fleet["collateral"]
            assert collateral["policy"] == "policy"
            assert collateral["expires"] > "2026"
            await http("DELETE", "/v1/grants/digits")
            assert not (await http.get("/v1/fleet"))["items"][0]["current"]

    in_loop(body)


def test_the_status_says_who_asks_and_where_the_store_is(operated: tuple[Place, str]) -> None:
    place, token = operated

    async def body() -> None:
        async with administered(place, token) as (_, http):
            status = await http.get("/v1/status")
            assert status["actor"].startswith("token:alice#")
            assert status["counts"] == {"keys": 2, "key_versions": 2, "policies": 1, "grants": 1}
            assert status["revision"] == status["broker_revision"]

    in_loop(body)


def test_the_api_describes_itself(operated: tuple[Place, str]) -> None:
    place, token = operated

    async def body() -> None:
        async with administered(place, token) as (_, http):
            document = await http.get("/v1/openapi.json")
            assert document["openapi"].startswith("3.1")
            assert "/v1/keys/{name}/versions/{version}/retire" in document["paths"]
            assert "$defs" not in json.dumps(document)
            grant = document["paths"]["/v1/grants/{name}"]["put"]["requestBody"]["content"]["application/json"]
            assert grant["schema"]["properties"]["model"]["properties"]["digest"]["pattern"]
            names = {p["name"] for p in document["paths"]["/v1/audit"]["get"]["parameters"]}
            assert {"after", "before", "limit", "outcome"} <= names

    in_loop(body)


def test_one_verification_runs_at_a_time(operated: tuple[Place, str], monkeypatch: pytest.MonkeyPatch) -> None:
    place, token = operated
    begun, go_on, real = threading.Event(), threading.Event(), Store.verify_audit

    def slow(store: Store, **options: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return real(store, **options)

    monkeypatch.setattr(Store, "verify_audit", slow)

    async def body() -> None:
        async with administered(place, token) as (_, http):
            first = asyncio.create_task(http("GET", "/v1/audit/verify"))
            assert await asyncio.to_thread(begun.wait, 20)
            second = await http("GET", "/v1/audit/verify")
            assert (second.status, second.reason) == (503, "busy")
            assert (await http("GET", "/v1/status")).status == 200
            go_on.set()
            assert (await first).status == 200
            assert (await http("GET", "/v1/audit/verify")).status == 200

    in_loop(body)


def test_two_brokers_over_one_store_tell_the_same(place: Place, identity: TlsIdentity) -> None:
    add_admin(place)
    two_brokers_tell_the_same(place, identity)


def two_brokers_tell_the_same(place: Place, identity: TlsIdentity) -> None:
    token = make_token(place)

    async def body() -> None:
        async with contextlib.AsyncExitStack() as parties:
            first, second = [await parties.enter_async_context(running(place)) for _ in range(2)]
            one, two = [await parties.enter_async_context(asking(place, b, token)) for b in (first, second)]
            await ask(place, first, identity)
            await ask(place, second, identity)
            for http in (one, two):
                minutes = (await http.get("/v1/fleet"))["minutes"]
                assert sum(minute["granted"] for minute in minutes) == 2
                assert len((await http.get("/v1/audit?event=decision"))["items"]) == 2
                # Metrics are each broker's own.
                granted = 'decisions_total{outcome="granted",protocol="2",reason=""} 1.0'
                assert granted in (await http("GET", "/metrics")).body.decode()
            assert (await one("POST", "/v1/keys", {"name": "shared"})).status == 201
            assert (await two("GET", "/v1/keys/shared")).status == 200
            await one("DELETE", "/v1/grants/digits")

            async def refused() -> bool:
                try:
                    await ask(place, second, identity)
                except BrokerRefusedError:
                    return True
                return False

            await eventually(refused)

    in_loop(body)
