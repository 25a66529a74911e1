"""The tables and functions in the database: which version is there, and how a later one is reached.

Whoever connects first makes them, where the user of the URL may: a worker just works. An earlier version is not changed
in passing, under workers that use it: that is `celeriac migrate`, as is making them by a user who may.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from celeriac import clock
from celeriac.drivers.postgres import Address, Connection, ServerError
from celeriac.drivers.postgres_wire import Verb

#: By version: what leads to it from the one before, as files beside this one.
MIGRATIONS: Final[Mapping[int, tuple[str, ...]]] = {
    1: ("postgres_tables.sql", "postgres_functions.sql", "postgres_upkeep.sql"),
    2: ("postgres_moving.sql",),
    3: ("postgres_broadcasts.sql",),
    4: ("postgres_transient.sql",),
}
VERSION: Final = max(MIGRATIONS)
#: Seconds that a migration may take which somebody has asked for.
PATIENCE: Final = 600.0

_MAY: Final = Verb(
    "SELECT has_database_privilege(current_database(), 'CREATE'), current_user::text", "", "bool text"
)
_BEGIN: Final = """
BEGIN;
SELECT pg_advisory_xact_lock(hashtextextended('celeriac.migration', 0));
SET LOCAL client_min_messages = warning;
"""
_VERSIONS: Final = """
CREATE TABLE IF NOT EXISTS celeriac.versions (
    number integer PRIMARY KEY, reached_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""


def connected(address: Address, timeout: float) -> Connection:
    """A connection to a schema of our version, which is made where there is none. Raises: OSError, ServerError."""
    deadline = clock.monotonic() + timeout
    connection = Connection(address, timeout)
    try:
        if connection.version is None:
            _make(connection, address, deadline - clock.monotonic())
        elif connection.version != VERSION:
            raise ServerError(_mismatch(connection.version, address), "XX000")
        connection.set_timeout(address.timeout)
    except BaseException:
        connection.close()
        raise
    return connection


def _mismatch(version: int, address: Address) -> str:
    there = f"the tables in the schema {address.schema!r} have version {version}, and this Celeriac needs {VERSION}"
    return f"{there}: " + (
        "run `celeriac migrate`" if version < VERSION else "they were made by a later one; upgrade this one"
    )


def _make(connection: Connection, address: Address, patience: float) -> None:
    try:
        migrate(connection, address, patience)
    except ServerError as exc:
        if exc.code != "42501":
            raise
        [(_, user)] = connection.call(_MAY)
        raise ServerError(
            f"the schema {address.schema!r} is not there, and the user {user!r} may not make it ({exc}): run "
            "`celeriac migrate` with the URL of a user who may",
            exc.code,
        ) from exc


def pending(version: int | None) -> list[list[int]]:
    """The versions that are still to be reached, by transactions. Where there is none yet it is a single one: nobody
    may find an earlier version there that nobody has used."""
    numbers = sorted(MIGRATIONS)
    return [numbers] if version is None else [[number] for number in numbers if number > version]


def upgrade(address: Address, dry_run: bool) -> list[str]:
    """Reach our version from whatever is there. Returns the transaction of each version that was to be reached; with
    `dry_run` none is run.

    Raises: OSError, ServerError: what is not reached yet is as it was.
    """
    connection = Connection(address, address.timeout)
    try:
        if connection.version is not None and connection.version > VERSION:
            raise ServerError(_mismatch(connection.version, address), "XX000")
        scripts = [script_of(numbers, address) for numbers in pending(connection.version)]
        if not dry_run:
            migrate(connection, address)
        return scripts
    finally:
        connection.close()


@cache
def _source(name: str) -> str:
    # Not by pathlib: nobody else in a supervisor needs it.
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return file.read()


def statements(number: int) -> str:
    """What leads to a version, for the schema `celeriac`."""
    parts = [_source(name) for name in MIGRATIONS[number]]
    return "\n".join([*parts, f"INSERT INTO celeriac.versions (number) VALUES ({number});"])


def migrate(connection: Connection, address: Address, patience: float = PATIENCE) -> list[int]:
    """Reach our version, in transactions of so many seconds. Returns the versions that we have reached.

    Raises: OSError, ServerError: what is not reached yet is as it was.
    """
    reached: list[int] = []
    connection.set_timeout(patience)
    for numbers in pending(connection.version):
        try:
            connection.script(script_of(numbers, address))
        except ServerError as exc:
            connection.script("ROLLBACK")
            if exc.code != _REACHED:
                raise
        else:
            reached += numbers
        connection.version = numbers[-1]
    return reached


#: Raised inside a migration that somebody else has finished while we waited for him.
_REACHED: Final = "CE001"


def script_of(numbers: Sequence[int], address: Address) -> str:
    """The whole transaction that leads to versions, one after the other, in the schema of this address."""
    schema, first = address.schema, numbers[0]
    create = f"""
DO $$ BEGIN
    IF to_regnamespace('{schema}') IS NULL THEN CREATE SCHEMA {schema}; END IF;
END $$;
"""
    check = f"""
DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM celeriac.versions WHERE number >= {first}) THEN
        RAISE EXCEPTION 'version {first} has been reached' USING ERRCODE = '{_REACHED}';
    END IF;
END $$;
"""
    return address.written(
        "".join([_BEGIN, create, _VERSIONS, check, *map(statements, numbers), "\nCOMMIT;"])
    )
