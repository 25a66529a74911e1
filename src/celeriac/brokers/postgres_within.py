"""Messages in a transaction of the application's own, over its connection: psycopg's, SQLAlchemy's or Django's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final
from weakref import WeakSet

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from celeriac.brokers import postgres_verbs as verbs
from celeriac.brokers.contract import Outgoing
from celeriac.drivers.postgres_wire import Verb
from celeriac.exceptions import ImproperlyConfigured

#: What no two schemas have in common.
_BORN: Final = "to_char(min(reached_at) AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS')"
BORN: Final = Verb(f"SELECT {_BORN} FROM celeriac.versions", "", "text")


class Guests:
    """The applications' connections that have been found to be to our schema."""

    def __init__(self, schema: str, ask: Callable[[Verb], list[tuple[Any, ...]]], place: str) -> None:
        self._schema = sql.Identifier(schema)
        self._name = schema
        self._ask = ask
        self._place = place
        self._guard = threading.Lock()
        self._known: WeakSet[Any] = WeakSet()

    def send(self, batch: Sequence[Outgoing], connection: Any) -> None:
        """Store messages in its transaction. Raises: ImproperlyConfigured; what the connection raises."""
        driven = _driven(connection)
        with self._guard:
            is_known = driven in self._known
        if not is_known:
            self._check(driven)
        statement = sql.SQL(
            "SELECT {}.store(%b::text[], %b::int[], %b::float8[], %b::bytea[], true, %b::bool[])"
        )
        with driven.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(statement.format(self._schema), verbs.words(batch), prepare=False)

    def _check(self, driven: Any) -> None:
        """See to it that it is a connection to our schema, asking nothing that could end its transaction."""
        [(born,)] = self._ask(BORN)
        with driven.cursor(row_factory=tuple_row) as cursor:
            cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{self._name}.versions",), prepare=False)
            if cursor.fetchone() == (True,):
                asked = sql.SQL("SELECT {} FROM {}.versions").format(sql.SQL(_BORN), self._schema)
                cursor.execute(asked, prepare=False)
                if cursor.fetchone() == (born,):
                    with self._guard:
                        self._known.add(driven)
                    return
        raise ImproperlyConfigured(
            f"connection= is to another database than the broker, which is {self._place}"
        )


def _driven(connection: Any) -> Any:
    """The driver's connection below it."""
    found = connection
    package = type(connection).__module__.partition(".")[0]
    if package == "sqlalchemy" and "asyncio" not in type(connection).__module__:
        # A session has a connection, an engine's connection has the pool's, and that one the driver's.
        if callable(getattr(found, "connection", None)):
            found = found.connection()
        if not found.in_transaction():
            found.begin()  # else its `commit` would think that there is nothing to commit
        found = found.connection.driver_connection
    elif package == "django":
        found.ensure_connection()
        found = found.connection
    if not issubclass(type(found), psycopg.Connection):
        raise ImproperlyConfigured(
            "connection= is a connection of psycopg 3, or a session or connection of SQLAlchemy or Django with one, "
            f"and none of them asynchronous; not a {type(found).__module__}.{type(found).__qualname__}"
        )
    return found
