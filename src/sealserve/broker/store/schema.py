"""The tables, and how an older database becomes one of this version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    inspect,
    select,
)

from sealserve.broker.store.errors import StoreError, StoreMissingError

metadata = MetaData()

migrations = Table(
    "schema_migrations",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied", Text, nullable=False),
)

store = Table(
    "store",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
    Column("store_id", Text, nullable=False),
    Column("check_value", Text, nullable=False),
    Column("signing_key", LargeBinary, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("state_mac", Text, nullable=False),
)
"""One row. ``revision`` counts changes; ``state_mac`` authenticates all of the four tables that follow."""

keys = Table(
    "keys",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("created", Text, nullable=False),
    Column("retires", Text),
    Column("destroyed", Text),
    Column("sealed", LargeBinary),
    CheckConstraint("(destroyed IS NULL) <> (sealed IS NULL)"),
)

policies = Table(
    "policies",
    metadata,
    Column("name", Text, primary_key=True),
    Column("text", Text, nullable=False),
    Column("trust_root", Text),
    Column("revision", BigInteger, nullable=False),
)

grants = Table(
    "grants",
    metadata,
    Column("deployment", Text, primary_key=True),
    Column("policy", Text, ForeignKey("policies.name"), nullable=False),
    Column("text", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("expires", Text, nullable=False),
    Column("revoked", Text),
)
"""Who may administer over HTTPS: ``digest`` is the SHA-256 of a token's secret part. Authenticated like those above."""

audit = Table(
    "audit",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("decision", Text, index=True),
    Column("line", Text, nullable=False),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
    Column("signature", Text, nullable=False),
    Column("checkpoint", BigInteger, nullable=False),
)
"""One row: the last record's number, hash and signature, and the number of the last checkpoint. Whoever appends locks
it, so that there is one chain."""


def _first(connection: Connection) -> None:
    metadata.create_all(connection)
    # Against accidents, not against whoever owns the database: that one is found out by the chain.
    if connection.dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER audit_no_{action.lower()} BEFORE {action} ON audit "
                "BEGIN SELECT RAISE(ABORT, 'the audit table only grows'); END"
            )
    else:
        connection.exec_driver_sql(
            "CREATE FUNCTION audit_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the audit table only grows'; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER audit_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_only_grows()"
        )


def _tokens(connection: Connection) -> None:
    tokens.create(connection, checkfirst=True)


Migration = Callable[[Connection], None]
MIGRATIONS: Sequence[Migration] = (_first, _tokens)
"""What makes version n of version n - 1. Only ever added to."""


def version_of(connection: Connection) -> int:
    """The version of the database's tables; 0 if there are none."""
    if not inspect(connection).has_table(migrations.name):
        return 0
    rows = connection.execute(select(migrations.c.version)).scalars().all()
    return max(rows, default=0)


def migrate(connection: Connection, steps: Sequence[Migration] = MIGRATIONS) -> int:
    """Bring the tables up to date, in the transaction that is open.

    :returns: the version that they had. :raises StoreError: they are newer than this program.
    """
    had = version_of(connection)
    _refuse_newer(had, len(steps))
    for number, step in enumerate(steps[had:], had + 1):
        step(connection)
        connection.execute(migrations.insert().values(version=number, applied=datetime.now(UTC).isoformat()))
    return had


def require_current(connection: Connection) -> None:
    """Do nothing if the tables are those of this program.

    :raises StoreMissingError: there are none. :raises StoreError: they are older or newer.
    """
    had = version_of(connection)
    if had == 0:
        raise StoreMissingError("the database holds no store", hint="Run `sealserve broker store init`.")
    _refuse_newer(had, len(MIGRATIONS))
    if had < len(MIGRATIONS):
        raise StoreError(
            f"the store has schema {had}, and this version of sealserve needs {len(MIGRATIONS)}",
            hint="Stop the brokers and run `sealserve broker store init`, which brings it up to date.",
        )


def _refuse_newer(had: int, known: int) -> None:
    if had > known:
        raise StoreError(
            f"the store has schema {had}, which is newer than this version of sealserve knows ({known})",
            hint="Use the version of sealserve that the store was last used with, or a newer one.",
        )
