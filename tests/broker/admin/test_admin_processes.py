"""Administration of broker processes, over PostgreSQL, of a store of the version before; and its documentation."""

from __future__ import annotations

import re
import socket
import sqlite3
import urllib.request
from pathlib import Path

import pytest
from admin_parties import add_admin, make_token, trusting
from broker_parties import Place, in_loop, new_identity
from test_admin_api import two_brokers_tell_the_same
from test_broker_postgresql import postgresql_place, server, url  # noqa: F401 - fixtures
from test_broker_process import broker_process

from sealserve.broker.admin.api import OPERATIONS
from sealserve.broker.server import Broker
from sealserve.broker.store import StoreError, StoreTamperedError
from sealserve.broker.tokens import TokenAdministration
from sealserve.cli.broker import broker
from sealserve.errors import MachineError
from sealserve.ratls import TlsIdentity

DOCUMENT = Path(__file__).parents[3] / "docs" / "broker-admin.md"


def test_two_brokers_over_postgresql_tell_the_same(postgresql_place: Place, identity_there: TlsIdentity) -> None:  # noqa: F811
    add_admin(postgresql_place)
    two_brokers_tell_the_same(postgresql_place, identity_there)


@pytest.fixture
def identity_there(postgresql_place: Place) -> TlsIdentity:  # noqa: F811
    return new_identity(postgresql_place)


def test_a_broker_process_is_administered_and_ends_cleanly(place: Place, identity: TlsIdentity, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    add_admin(place, listen=f"127.0.0.1:{port}")
    token = make_token(place)
    with broker_process(place, tmp_path) as process:
        process.fetch(identity)
        request = urllib.request.Request(
            f"https://localhost:{port}/metrics", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, context=trusting(place), timeout=10) as answer:  # noqa: S310
            assert b'decisions_total{outcome="granted"' in answer.read()
        # An idle connection does not hold it up.
        idle = trusting(place).wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost")
        code, log = process.end()
        idle.close()
    assert code == 0
    events = [entry["event"] for entry in log]
    assert "administration-listening" in events
    assert events[-1] == "broker-stopped"
    assert token not in str(log)


def test_a_port_for_administration_that_is_taken_is_a_clear_error_and_leaves_nothing_open(place: Place) -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
            free.close()
            place.document["listen"] = f"127.0.0.1:{port}"
            add_admin(place, listen=f"127.0.0.1:{taken.getsockname()[1]}")
            starting = Broker(place.settings())
            with pytest.raises(MachineError, match="another process does"):
                await starting.start()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=5)

    in_loop(body)


def test_a_store_of_the_version_before_is_brought_up_to_date(place: Place) -> None:
    with sqlite3.connect(place.directory / "broker.db") as database:
        database.execute("DROP TABLE tokens")
        database.execute("DELETE FROM schema_migrations WHERE version = 2")
    with pytest.raises(StoreError, match="has schema 1"):
        place.settings().open_store()
    place.settings().create_store(actor="test").close()
    make_token(place)
    with place.store() as store:
        assert store.check().opened == 2
        assert len(store.load().tokens) == 1


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE tokens SET role = 'operator'",
        "UPDATE tokens SET expires = '2100-01-01T00:00:00+00:00'",
        "UPDATE tokens SET revoked = NULL",
        "DELETE FROM tokens",
        "INSERT INTO tokens SELECT 'ffffffffffff', name, role, digest, created, expires, NULL FROM tokens LIMIT 1",
    ],
)
def test_whoever_writes_the_database_makes_no_token(place: Place, attack: str) -> None:
    make_token(place, "viewer")
    with place.store() as store:
        administration = TokenAdministration(store, actor="test")
        administration.revoke(administration.tokens()[0].id)
    with sqlite3.connect(place.directory / "broker.db") as database:
        database.execute(attack)
    with place.store() as store, pytest.raises(StoreTamperedError):
        store.load()


def test_the_page_on_administration_names_what_exists() -> None:
    text = DOCUMENT.read_text()
    for words in re.findall(r"sealserve broker ((?:[a-z-]+ ?){1,3})", text):
        found = broker
        for word in words.split():
            if not hasattr(found, "commands"):
                break
            assert word in found.commands, words
            found = found.commands[word]
    named = {re.sub(r"{(\w+):[^{}]*({[^{}]*})?[^{}]*}", "*", operation.path) for operation in OPERATIONS}
    for path in re.findall(r"`(?:[A-Z, ]+ )?(/v1/[^`?]+)[`?]", text):
        known = re.sub(r"/(NAME|DEPLOYMENT|N)\b", "/*", path)
        assert known in named | {"/v1/openapi.json"}, path
    for picture in re.findall(r"\]\(([\w-]+\.png)\)", text):
        assert (DOCUMENT.parent / picture).stat().st_size < 150_000
