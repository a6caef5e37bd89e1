"""Who may administer a broker, and who may not."""

from __future__ import annotations

import re
import sqlite3
import ssl
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from admin_parties import add_admin, add_client, administered, eventually, make_token
from broker_parties import Authority, Place, in_loop, running

from sealserve.broker.admin.api import OPERATIONS
from sealserve.broker.admin.authentication import Failures
from sealserve.broker.server import Broker
from sealserve.broker.settings import BrokerSettings
from sealserve.broker.store.tokens import StoredToken, split_token
from sealserve.broker.tokens import TokenAdministration
from sealserve.errors import ConfigurationError, KeyFileError


def example(path: str) -> str:
    return re.sub(r"{version:[^{}]*({[^{}]*})?[^{}]*}", "1", re.sub(r"{name:[^{}]*{[^{}]*}}", "digits", path))


def test_every_operation_refuses_whoever_is_not_known_and_viewers_where_it_changes(place: Place) -> None:
    add_admin(place)
    viewer = make_token(place, "viewer")

    async def body() -> None:
        async with administered(place) as (_, ask):
            for operation in OPERATIONS:
                path = example(operation.path)
                answer = await ask(operation.method, path)
                assert (answer.status, answer.reason) == (401, "no-credentials"), path
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
                seen = await ask.as_(viewer)(operation.method, path)
                if operation.role == "operator":
                    assert (seen.status, seen.reason) == (403, "role-too-low"), path
                else:
                    assert seen.status in {200, 404}, path
            for path in ("/v1/audit/export", "/v1/openapi.json", "/metrics"):
                assert (await ask("GET", path)).status == 401
                assert (await ask.as_(viewer)("GET", path)).status == 200
            for path in ("/", "/healthz", "/readyz", "/console.js"):
                assert (await ask("GET", path)).status == 200

    in_loop(body)
    assert len({operation.role for operation in OPERATIONS}) == 2
    assert all(operation.role == "operator" for operation in OPERATIONS if operation.method != "GET")


def test_wrong_expired_revoked_and_malformed_tokens_are_refused(place: Place) -> None:
    add_admin(place)
    good, expired, revoked = (make_token(place, seconds=seconds) for seconds in (3600, 0.001, 3600))
    with place.store() as store:
        identifier, _ = split_token(revoked.encode()) or ("", b"")
        TokenAdministration(store, actor="test").revoke(identifier)
    unknown = StoredToken.make("x", "operator", timedelta(1))[1].reveal().decode()
    wrong = {
        good[:-1] + ("A" if good[-1] != "A" else "B"): "token-unknown",
        unknown: "token-unknown",
        expired: "token-expired",
        revoked: "token-revoked",
        good[:-1]: "token-malformed",
        good.upper(): "token-malformed",
        "": "token-malformed",
    }

    async def body() -> None:
        async with administered(place) as (_, ask):
            for token, reason in wrong.items():
                answer = await ask.as_(token)("GET", "/v1/status")
                assert (answer.status, answer.reason) == (401, reason)
                assert token == "" or token not in answer.body.decode()
            for header in (f"Basic {good}", good, f"Bearer{good}"):
                assert (await ask("GET", "/v1/status", Authorization=header)).reason == "token-malformed"
            assert (await ask.as_(good)("GET", "/v1/status")).status == 200
            assert (await ask("GET", f"/v1/status?access_token={good}")).status in {401, 429}
            two = [("Authorization", f"Bearer {good}"), ("Authorization", f"Bearer {good}")]
            async with ask.session.get(ask.base + "/v1/status", headers=two) as answer:
                assert answer.status in {401, 429}

    in_loop(body)


def test_a_token_is_revoked_and_made_while_the_broker_runs(place: Place) -> None:
    add_admin(place)
    token = make_token(place)

    async def body() -> None:
        async with administered(place, token) as (_, ask):
            assert (await ask("GET", "/v1/status")).status == 200
            with place.store() as store:
                administration = TokenAdministration(store, actor="test")
                administration.revoke(administration.tokens()[0].id)

            async def refused() -> bool:
                return (await ask("GET", "/v1/status")).status == 401

            await eventually(refused)
            other = ask.as_(make_token(place))

            async def accepted() -> bool:
                return (await other("GET", "/v1/status")).status == 200

            await eventually(accepted)

    in_loop(body)


def test_failed_attempts_are_limited_and_do_not_shut_others_out(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    add_admin(place)
    good = make_token(place)
    bad = good[:-2] + ("AA" if good[-2:] != "AA" else "BB")

    async def body() -> None:
        async with administered(place) as (_, ask):
            answers = [await ask.as_(bad)("GET", "/v1/status") for _ in range(25)]
            assert [answer.status for answer in answers[:10]] == [401] * 10
            assert answers[-1].status == 429
            assert int(answers[-1].headers["Retry-After"]) > 0
            assert (await ask.as_(good)("GET", "/v1/status")).status == 200

    with caplog.at_level("INFO", logger="sealserve"):
        in_loop(body)
    refusals = [record for record in caplog.records if record.message == "administrator-refused"]
    assert 10 <= len(refusals) <= 12
    written = "".join(str(record.__dict__) for record in caplog.records)
    assert good not in written
    assert bad not in written


def test_the_allowance_of_failures_comes_back_and_addresses_do_not_fill_the_memory() -> None:
    time = [0.0]
    failures = Failures(clock=lambda: time[0])
    assert [failures.admit("a") for _ in range(12)] == [True] * 10 + [False] * 2
    assert failures.admit("b")
    time[0] += 7
    assert [failures.admit("a") for _ in range(2)] == [True, False]
    for number in range(5000):
        failures.admit(str(number))
    assert len(failures._left) == 1000


def test_tokens_of_a_store_that_was_changed_are_not_believed(place: Place) -> None:
    add_admin(place)
    viewer = make_token(place, "viewer")

    async def body() -> None:
        async with administered(place, viewer) as (_, ask):
            assert (await ask("POST", "/v1/keys", {"name": "x"})).status == 403
            with sqlite3.connect(place.directory / "broker.db") as database:
                database.execute("UPDATE tokens SET role = 'operator'")
                database.execute("UPDATE store SET revision = revision + 1")

            async def noticed() -> bool:
                return (await ask("GET", "/v1/status")).status == 503

            await eventually(noticed)
            assert (await ask("POST", "/v1/keys", {"name": "x"})).status == 503
            ready = await ask("GET", "/readyz")
            assert ready.status == 503
            assert ready.value["checks"]["store"] == "store-tampered"
            assert (await ask("GET", "/healthz")).status == 200

    in_loop(body)


def test_client_certificates_prove_who_asks(place: Place) -> None:
    clients = {"authority": "admins.pem", "operators": ["olga"], "viewers": ["victor"]}
    add_admin(place, tokens=False, clients=clients)
    pairs = {name: add_client(place, name) for name in ("olga", "victor", "nobody")}

    async def body() -> None:
        async with administered(place, client=pairs["olga"]) as (_, ask):
            assert (await ask("POST", "/v1/keys", {"name": "made"})).status == 201
            assert (await ask.get("/v1/status"))["actor"] == "certificate:olga"
            # A token is not silently ignored where only certificates count.
            assert (await ask.as_("x")("GET", "/v1/status")).status == 401
        async with administered(place, client=pairs["victor"]) as (_, ask):
            assert (await ask("GET", "/v1/keys")).status == 200
            assert (await ask("POST", "/v1/keys", {"name": "other"})).reason == "role-too-low"
        async with administered(place, client=pairs["nobody"]) as (_, ask):
            assert (await ask("GET", "/v1/keys")).reason == "certificate-not-listed"
        async with administered(place) as (_, ask):
            assert (await ask("GET", "/v1/keys")).reason == "no-credentials"
            assert (await ask("GET", "/healthz")).status == 200

    in_loop(body)
    (made,) = [record for record in place.chain if record.get("key") == "made"]
    assert made["actor"] == "certificate:olga"


def test_a_certificate_of_another_authority_gets_no_connection(place: Place, tmp_path: Path) -> None:
    add_admin(place, tokens=False, clients={"authority": "admins.pem", "operators": ["olga"]})
    add_client(place, "olga")
    stranger = Place(tmp_path / "stranger", Authority(), {})
    stranger.directory.mkdir()
    pair = add_client(stranger, "olga")

    async def body() -> None:
        async with administered(place, client=pair) as (_, ask):
            with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
                await ask("GET", "/v1/keys")

    in_loop(body)


def test_tokens_and_certificates_go_together(place: Place) -> None:
    add_admin(place, clients={"authority": "admins.pem", "operators": ["olga"]})
    pair = add_client(place, "olga")
    viewer = make_token(place, "viewer")

    async def body() -> None:
        async with administered(place, viewer, client=pair) as (_, ask):
            # The token was meant; the certificate does not lift it.
            assert (await ask("POST", "/v1/keys", {"name": "x"})).status == 403
            assert (await ask.as_(None)("POST", "/v1/keys", {"name": "x"})).status == 201

    in_loop(body)


@pytest.mark.parametrize(
    ("admin", "why"),
    [
        ({}, "has no authentication"),
        ({"tokens": False}, "has no authentication"),
        ({"clients": {"authority": "admins.pem"}}, "names nobody"),
        ({"clients": {"authority": "a", "operators": ["x"], "viewers": ["x"]}}, "as operator and as viewer"),
        ({"tokens": True, "certificate": "broker.pem"}, "give certificate and private_key"),
        ({"tokens": True, "listen": "127.0.0.1:4433"}, "the enclaves' port"),
        ({"tokens": True, "listen": "nowhere"}, "is not an address"),
        ({"tokens": True, "names": ["a b"]}, "no DNS name"),
        ({"tokens": True, "metrics": "off"}, "must be"),
    ],
)
def test_settings_that_would_not_protect_are_refused(place: Place, admin: dict[str, object], why: str) -> None:
    place.document["listen"] = "127.0.0.1:4433"
    place.document["admin"] = {"listen": "127.0.0.1:4434", **admin}
    with pytest.raises(ConfigurationError, match=why):
        BrokerSettings.load(place.write())


def test_a_broker_with_an_unusable_certificate_for_administration_does_not_start(place: Place) -> None:
    add_admin(place, certificate="broker.pem", private_key="other.key")
    (place.directory / "other.key").write_bytes(place.authority.issue().key_pem)
    with pytest.raises(KeyFileError, match="can be read by others"):
        Broker(place.settings())
    (place.directory / "other.key").chmod(0o600)
    with pytest.raises(ConfigurationError, match="no certificate and its key"):
        Broker(place.settings())


def test_administration_is_off_unless_asked_for(place: Place) -> None:
    async def body() -> None:
        async with running(place) as broker:
            assert broker.admin_address is None

    in_loop(body)
