"""Several brokers over one PostgreSQL."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker_parties import Place, ask, in_loop, make_place, running
from store_crashes import assert_nothing_lost, kill_in_loops
from test_broker_process import broker_process
from test_broker_store import ATTACKS, AUDIT_ATTACKS

from sealserve.broker.administration import BrokerAdministration
from sealserve.broker.audit import AuditTamperedError, AuditUnavailableError
from sealserve.broker.client import fetch_grant
from sealserve.broker.store import MasterKeyPlace, Store, StoreMissingError, StoreTamperedError, StoreUnavailableError
from sealserve.ratls import TlsIdentity


def find(program: str) -> str | None:
    found = shutil.which(program)
    candidates = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return found or (str(candidates[-1]) if candidates else None)


class Server:
    """A PostgreSQL of these tests' own, on a socket in a directory.

    :param listen: an address of this machine where it is to listen as well, at :attr:`port`, for anybody.
    """

    def __init__(self, directory: Path, *, listen: str = "") -> None:
        self.listen, self.port = listen, 5432
        initdb, self.postgres, psql = find("initdb"), find("postgres"), find("psql")
        if not (initdb and self.postgres and psql):
            pytest.skip("PostgreSQL (initdb, postgres, psql) is not installed")
        pytest.importorskip("psycopg")
        self.psql, self.directory, self.data = psql, directory, directory / "data"
        self.user: str | None = None
        if os.geteuid() == 0:
            self.user = next(
                (n for n in ("postgres", "nobody") if n in {entry.pw_name for entry in pwd.getpwall()}), None
            )
            if self.user is None:
                pytest.skip("PostgreSQL does not run as root, and there is no user for it")
            shutil.chown(directory, self.user)
        self._run(initdb, "-D", self.data, "-U", "broker", "-A", "trust", "-N", "-E", "UTF8", "--locale=C")
        if listen:
            with socket.create_server((listen, 0)) as listener:
                self.port = int(listener.getsockname()[1])
            with (self.data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all all trust\n")
        self.start()

    def start(self) -> None:
        assert self.postgres
        where = ("-k", self.directory, "-p", str(self.port), "-c", f"listen_addresses={self.listen}")
        self.popen = subprocess.Popen(
            [self.postgres, "-D", self.data, *where],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self.user,
            cwd=self.directory,
        )
        for _ in range(300):
            if self._run(self.psql, *self._socket, "-c", "", "postgres", check=False) == 0:
                return
            time.sleep(0.1)
        pytest.fail("PostgreSQL did not start")

    @property
    def _socket(self) -> tuple[object, ...]:
        return ("-h", self.directory, "-p", self.port, "-U", "broker")

    def stop(self, number: int = signal.SIGINT) -> None:
        self.popen.send_signal(number)
        self.popen.wait(30)

    def database(self, name: str) -> str:
        """A new, empty database; its URL."""
        self.sql(f"CREATE DATABASE {name}", "postgres")
        return f"postgresql://broker@/{name}?host={self.directory}"

    def sql(self, statement: str, database: str) -> None:
        arguments = ("-v", "ON_ERROR_STOP=1", *self._socket, "-q", "-c", statement, database)
        assert self._run(self.psql, *arguments) == 0

    def _run(self, *command: object, check: bool = True) -> int:
        arguments = [str(part) for part in command]
        done = subprocess.run(
            arguments, capture_output=True, text=True, check=False, user=self.user, cwd=self.directory, timeout=60
        )
        assert not check or done.returncode == 0, done.stderr
        return done.returncode


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    import tempfile

    # Not pytest's directory: the path of a socket is short, and others than root must get there.
    with tempfile.TemporaryDirectory(prefix="sealserve-pg-") as directory:
        Path(directory).chmod(0o755)
        server = Server(Path(directory))
        yield server
        server.stop()


@pytest.fixture
def url(server: Server) -> str:
    return server.database("t" + random.randbytes(6).hex())


@pytest.fixture
def postgresql_place(url: str, tmp_path: Path) -> Place:
    return make_place(tmp_path, store=url)


def test_a_store_in_postgresql_is_like_one_in_a_file(url: str, tmp_path: Path) -> None:
    master = MasterKeyPlace(tmp_path / "master.key")
    with pytest.raises(StoreMissingError):
        Store(url, master)
    with Store.create(url, master, actor="test") as store:
        administration = BrokerAdministration(store, actor="test")
        administration.create_key("wrap")
        administration.rotate_key("wrap")
        administration.destroy_key("wrap", 1, confirmation="wrap")
        value = administration.key_value("wrap", purpose="test")[1]
        store.rewrap("test")
        store.finish_rewrap()
        assert store.value(store.load().keys["wrap", 2]) == value
        store.check()
    Store.create(url, master, actor="test").close()
    with Store(url, master) as store:
        assert store.check().opened == 1


@pytest.mark.parametrize("attack", ["another digest", "a grant removed", "two keys' values swapped", "a key renamed"])
def test_what_is_changed_in_the_database_is_refused(server: Server, postgresql_place: Place, attack: str) -> None:
    name = postgresql_place.document["store"].rpartition("@/")[2].partition("?")[0]
    server.sql(ATTACKS[attack], name)
    with pytest.raises(StoreTamperedError), postgresql_place.store() as store:
        store.load()


def test_a_changed_audit_table_is_found_out(server: Server, postgresql_place: Place) -> None:
    name = postgresql_place.document["store"].rpartition("@/")[2].partition("?")[0]
    with pytest.raises(AssertionError, match="only grows"):
        server.sql(AUDIT_ATTACKS["removed"], name)
    server.sql("ALTER TABLE audit DISABLE TRIGGER ALL; " + AUDIT_ATTACKS["removed"], name)
    with postgresql_place.store() as store, pytest.raises(AuditTamperedError):
        store.verify_audit()


def test_two_writers_are_killed_at_random_moments(url: str, tmp_path: Path) -> None:
    master = tmp_path / "master.key"
    with Store.create(url, MasterKeyPlace(master), actor="test") as store:
        for name in ("w0", "w1"):
            BrokerAdministration(store, actor="test").create_key(name)
    assert kill_in_loops(url, master, rounds=4, workers=2) > 20


def test_two_brokers_are_killed_in_turn_and_every_replica_gets_its_key(
    postgresql_place: Place, identity: TlsIdentity, tmp_path: Path
) -> None:
    place = postgresql_place
    decisions: list[str] = []
    (tmp_path / "a").mkdir()

    def fetch(brokers: list[str]) -> None:
        grant = fetch_grant(
            brokers,
            ca_pem=place.authority.pem,
            identity=identity,
            attester=place.attester(),
            deployment="digits",
            timeout=20,
        )
        decisions.append(grant.decision)

    with broker_process(place, tmp_path / "a") as first:
        names = [f"localhost:{first.port}"]
        for number in range(2):
            (tmp_path / f"b{number}").mkdir()
            with broker_process(place, tmp_path / f"b{number}") as second:
                both = [f"localhost:{second.port}", *names]
                for _ in range(3):
                    fetch(both)
                    fetch(both[::-1])
                if number == 1:
                    place.put(refresh_seconds=77)
                second.popen.send_signal(signal.SIGKILL)
                fetch(both)
                second.popen.communicate()
        fetch(names)
        first.end()
    recorded = [record["decision"] for record in place.records if record["outcome"] == "granted"]
    assert set(decisions) <= set(recorded)
    assert len({record["broker"] for record in place.records}) == 3
    with place.store() as store:
        store.check()


def test_both_brokers_see_a_change(postgresql_place: Place, identity: TlsIdentity) -> None:
    import asyncio

    place = postgresql_place

    async def body() -> None:
        async with running(place) as first, running(place) as second:
            place.put(refresh_seconds=77)
            for broker in (first, second):
                async with asyncio.timeout(10):
                    while (await ask(place, broker, identity)).refresh_seconds != 77:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)

    in_loop(body)


def test_a_database_that_crashes_refuses_and_comes_back_with_all_that_was_acknowledged(
    server: Server, url: str, tmp_path: Path
) -> None:
    master = tmp_path / "master.key"
    with Store.create(url, MasterKeyPlace(master), actor="test") as store:
        administration = BrokerAdministration(store, actor="test")
        versions = [administration.create_key("k").version] + [administration.rotate_key("k").version for _ in range(5)]
        server.stop(signal.SIGQUIT)  # at once, without a checkpoint
        with pytest.raises(StoreUnavailableError):
            administration.rotate_key("k")
        with pytest.raises(AuditUnavailableError):
            store.append_audit([{"event": "decision"}])
        server.start()
        versions.append(administration.rotate_key("k").version)
    assert_nothing_lost(url, master, [["key", "k", str(version)] for version in versions])
