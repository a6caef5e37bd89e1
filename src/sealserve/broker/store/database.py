"""Transactions on SQLite or PostgreSQL, durable when they end, and the database's errors in our words."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from sealserve.broker.store.errors import StoreError, StoreMissingError, StoreTamperedError, StoreUnavailableError
from sealserve.errors import ConfigurationError
from sealserve.files import PRIVATE, explain_os_error, sync_directory

BUSY_SECONDS = 10
_SMALLEST_FREE = 64 * 1024
_WRITING = "sealserve_writing"
_POSTGRESQL = ("postgresql://", "postgres://")


def is_url(location: str) -> bool:
    """Whether a store's location is PostgreSQL's URL and not the path of a SQLite file."""
    return location.startswith(_POSTGRESQL)


class Database:
    """A database that is there. Safe for several threads.

    :param location: the path of a SQLite file, or ``postgresql://…``.
    :param create: make the SQLite file if it is missing. A PostgreSQL database must exist.
    :raises StoreMissingError: there is no such file. :raises ConfigurationError: the URL is not usable.
    :raises StoreError: others can read the file.
    """

    def __init__(self, location: str, *, create: bool = False) -> None:
        self.location = location
        if is_url(location):
            self._engine = _postgresql(location)
        else:
            _prepare_file(Path(location), create=create)
            self._engine = _sqlite(Path(location))

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the database.

        :raises StoreUnavailableError: the database cannot be read.
        """
        options: dict[str, Any] = {}
        if self._engine.dialect.name == "postgresql":
            options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with self._explained("read"), self._engine.connect() as connection:
            connection.execution_options(**options)
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction whose changes are on disk when the block has ended, or not made at all if it raised.

        :raises StoreUnavailableError: the database cannot be written. If the connection broke while it committed, the
            changes may have been made.
        """
        with self._explained("write"), self._engine.connect() as connection:
            connection.execution_options(**{_WRITING: True})
            with connection.begin():
                yield connection

    def forget_deleted(self) -> None:
        """Have SQLite put its write-ahead log into the file, so that what was deleted is overwritten."""
        if self._engine.dialect.name == "sqlite":
            with contextlib.suppress(SQLAlchemyError), self._engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(
                    "PRAGMA wal_checkpoint(TRUNCATE)"
                )

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise _explain(error, action, self.name) from error

    @property
    def name(self) -> str:
        """For people: the path or the URL."""
        return make_url(self.location).render_as_string() if is_url(self.location) else self.location

    def require_room(self) -> None:
        """See that a record fits on a file's disk. Changing what is there already often needs no room.

        :raises StoreUnavailableError: it is full.
        """
        if is_url(self.location):
            return
        try:
            disk = os.statvfs(Path(self.location).parent)
        except OSError as error:
            raise StoreUnavailableError(f"cannot write the store {self.name}: {error.strerror}") from error
        if disk.f_bavail * disk.f_frsize < _SMALLEST_FREE:
            raise _full("write", self.name)


def _explain(error: SQLAlchemyError, action: str, name: str) -> StoreUnavailableError | StoreTamperedError:
    cause = error.orig if isinstance(error, DBAPIError) else error
    why = " ".join(str(cause).split()) or type(cause).__name__
    if "malformed" in why or "not a database" in why or "only grows" in why:
        return StoreTamperedError(
            f"the store {name} is damaged or was changed: {why}", hint="Restore the database from a backup."
        )
    if _no_space(why, name):
        return _full(action, name)
    return StoreUnavailableError(
        f"cannot {action} the store {name}: {why}",
        hint="Check that the database runs and can be reached, and that its disk is not full or read-only.",
    )


def _full(action: str, name: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"cannot {action} the store {name}: {os.strerror(errno.ENOSPC)}",
        hint="Make room on its disk. Nothing is lost, and nothing is released meanwhile.",
    )


def _no_space(why: str, name: str) -> bool:
    """Whether the disk is full. SQLite says so only where it writes the database itself."""
    if "disk is full" in why or os.strerror(errno.ENOSPC) in why:
        return True
    if is_url(name) or not ("disk I/O error" in why or "unable to open" in why):
        return False
    try:
        free = os.statvfs(Path(name).parent)
    except OSError:
        return False
    return free.f_bavail * free.f_frsize < _SMALLEST_FREE


# --- SQLite ---------------------------------------------------------------------------------------------------------


def _prepare_file(path: Path, *, create: bool) -> None:
    try:
        if create and not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE))
            sync_directory(path.parent)
        status = path.stat()
    except FileNotFoundError as error:
        if create:
            raise explain_os_error(error, path, "create") from error
        raise StoreMissingError(f"there is no store at {path}", hint="Run `sealserve broker store init`.") from error
    except OSError as error:
        raise explain_os_error(error, path, "open") from error
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"the store {path} is no regular file", hint="Name a file.")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise StoreError(f"the store {path} is open to others", hint=f"Run `chmod 600 {path}`.")


def _sqlite(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)),
        hide_parameters=True,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:
        # Transactions are begun below, not by the driver, which would begin them too late.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "secure_delete=ON",
            "trusted_schema=OFF",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # IMMEDIATE waits for its turn here. A transaction that becomes a writer later can fail instead of waiting.
        writing = connection.get_execution_options().get(_WRITING)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


# --- PostgreSQL -----------------------------------------------------------------------------------------------------

# A broker whose machine vanishes while it holds the chain's lock must not hold up the others.
_SESSION = (
    "SET lock_timeout = '5s'",
    "SET statement_timeout = '10s'",
    "SET idle_in_transaction_session_timeout = '10s'",
)


def _postgresql(location: str) -> Engine:
    try:
        url = make_url(location)
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError("the store's URL is not valid", hint="Write postgresql://host/database.") from error
    if url.password is not None or "password" in url.query:
        raise ConfigurationError(
            "the store's URL holds a password",
            hint="Use a client certificate, or a file that only the broker can read: ?passfile=/path (see .pgpass).",
        )
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=3,
        connect_args={"connect_timeout": 5, "application_name": "sealserve-broker", "tcp_user_timeout": 10_000},
    )

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in _SESSION:
                cursor.execute(statement)
            # What is committed must be on disk, whatever the server's default is.
            cursor.execute("SHOW synchronous_commit")
            if cursor.fetchone()[0] == "off":
                cursor.execute("SET synchronous_commit = on")
        connection.autocommit = False

    return engine
