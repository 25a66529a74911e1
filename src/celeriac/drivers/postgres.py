"""A lean connection to a PostgreSQL server, for the broker and the result store.

It speaks through psycopg's wrapper of libpq, without its cursors: every call has a time limit that holds whatever the
network does, and a thread that waits for work waits for the same socket. Calls are single statements outside of
transactions, so they go through a pooler in transaction mode too; notifications do not, which `hears` tells.

Errors leave this module as ours: nothing above knows psycopg.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import conninfo, pq

from celeriac import clock, native, plugins
from celeriac.drivers import errors, pool
from celeriac.drivers.alarm import Alarm
from celeriac.drivers.names import look_up
from celeriac.drivers.options import number, truth
from celeriac.drivers.postgres_wire import Verb
from celeriac.exceptions import ImproperlyConfigured
from celeriac.urls import Url

#: The schema that holds the tables, unless the URL says `?schema=`.
SCHEMA: Final = "celeriac"
#: A transaction that the server ended for the sake of another is begun again so many times.
TRIES: Final = 6

#: Options that are libpq's: they are handed on as they are.
_LIBPQ: Final = frozenset({
    "application_name", "channel_binding", "gssencmode", "keepalives", "keepalives_count", "keepalives_idle",
    "keepalives_interval", "krbsrvname", "options", "passfile", "require_auth", "service", "sslcert", "sslcompression",
    "sslcrl", "sslkey", "sslmode", "sslnegotiation", "sslpassword", "sslrootcert", "sslsni", "target_session_attrs",
    "tcp_user_timeout",
})  # fmt: skip
_OURS: Final = frozenset({"connect_timeout", "dbname", "host", "listen", "pool_limit", "schema", "timeout"})

#: SQLSTATEs, or their classes, of what may pass: the server starts, stops, is full or is read-only for now.
_PASSING: Final = ("08", "25006", "40", "53", "55P03", "57", "58")
_ADVICE: Final = {
    "25006": "this server is a standby that cannot be written: point the URL at the primary",
    "28000": "the server lets this user not in: see its pg_hba.conf",
    "28P01": "the user name or the password of the URL is wrong",
    "3D000": "there is no such database: create it, or name another in the URL",
    "42501": "the user of the URL may not do this: grant it, or run `celeriac migrate` as the owner",
    "42883": "the schema is not as this Celeriac needs it: run `celeriac migrate`",
    "42P01": "the schema is not as this Celeriac needs it: run `celeriac migrate`",
    "53100": "the server's disk is full",
    "53300": "the server has too many connections: raise its max_connections, or put a pooler before it",
}
#: A server that refuses a connection gives no SQLSTATE to libpq's callers: what its text contains, and which it is.
_TEXTS: Final = {
    "password authentication failed": "28P01",
    "no password supplied": "28P01",
    "no pg_hba.conf entry": "28000",
    "authentication failed": "28000",
    "too many clients": "53300",
    "remaining connection slots": "53300",
    "does not exist": "3D000",
}


class ServerError(errors.ServerError):
    """The server answered with an error. `code` is its SQLSTATE, or what its text lets us guess of that."""

    advice = _ADVICE

    @property
    def passing(self) -> bool:
        return self.code.startswith(_PASSING)


class Address:
    """Where the server is and how to get in, from a URL and transport options."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        query = {**options, **url.query}
        for name in query.keys() - _OURS - _LIBPQ:
            known = sorted(_OURS | _LIBPQ)
            raise ImproperlyConfigured(f"postgresql has no option {name!r}.{plugins.nearest(name, known)}")
        hosts = url.hosts or (((str(query["host"]), None),) if query.get("host") else ())
        self.hosts: Final = [(host, port or 5432) for host, port in hosts]
        self.schema = str(query.get("schema", SCHEMA))
        if not re.fullmatch("[a-z_][a-z0-9_]{0,62}", self.schema):
            raise ImproperlyConfigured(
                f"schema={self.schema!r}: it is written in small letters, digits and underscores, 63 at most"
            )
        database = url.path.strip("/") or query.get("dbname")
        self._parameters: Final[dict[str, Any]] = {
            "application_name": "celeriac", **{name: query[name] for name in query.keys() & _LIBPQ},
            "client_encoding": "UTF8", "user": url.username, "password": url.password, "dbname": database,
        }  # fmt: skip
        if len(self.hosts) > 1:
            self._parameters.setdefault("target_session_attrs", "read-write")
        self.connect_timeout = number(query, "connect_timeout", 4.0)
        self.timeout = number(query, "timeout", 10.0)
        #: The most connections of a pool; 0 is no limit.
        self.pool_limit = int(number(query, "pool_limit", 10))
        #: Whether notifications are asked for; None: where the server can be asked directly.
        self.listen = truth(query, "listen")
        where = ",".join(f"{host}:{port}" for host, port in self.hosts) or "local"
        tables = "" if self.schema == SCHEMA else f" (schema {self.schema})"
        #: Server, database and schema, without secrets.
        self.place = f"postgresql {where}/{database or url.username or ''}{tables}"

    def conninfo(self, timeout: float) -> bytes:
        """libpq's connection string, with the addresses of the hosts, looked up within that time. Raises: OSError."""
        parameters = {name: value for name, value in self._parameters.items() if value is not None}
        deadline = clock.monotonic() + timeout
        places: list[tuple[str, str, int]] = []
        for host, port in self.hosts:
            if host.startswith(("/", "@")):
                places.append((host, "", port))
                continue
            found = look_up(host, port, max(0.001, deadline - clock.monotonic()))
            places += ((host, address, port) for address in dict.fromkeys(row[4][0] for row in found))
        if places:
            hosts, addresses, ports = zip(*places, strict=True)
            parameters |= {"host": ",".join(hosts), "port": ",".join(map(str, ports))}
            if any(addresses):
                parameters["hostaddr"] = ",".join(addresses)
        return conninfo.make_conninfo("", **parameters).encode()

    def written(self, sql: str) -> str:
        """A statement, for the schema."""
        return re.sub(r"\bceleriac\.", f"{self.schema}.", sql)


class Connection:
    """One connection. Not safe for several threads at once: its holder locks."""

    def __init__(self, address: Address, timeout: float) -> None:
        """Connect and log in within `timeout` seconds. Raises: OSError, ServerError."""
        self.pid = os.getpid()
        #: Channels of the notifications that have arrived, each with its text.
        self.pushes: deque[tuple[str, str]] = deque()
        self._address = address
        self._written: dict[Verb, bytes] = {}
        until = clock.monotonic() + timeout
        self._deadline = min(until, clock.monotonic() + address.connect_timeout)
        self._pg = self._connect()
        self.set_timeout(until - clock.monotonic())
        #: Whether notifications come: not through a pooler, behind which there is another process at each transaction.
        self.hears = False
        try:
            self._pg.nonblocking = 1
            [(process, version, isolation)] = self.call(_HELLO.of(address))
            self.hears = address.listen if address.listen is not None else process == self._pg.backend_pid
            #: The version of the schema; None: it is not there.
            self.version: int | None = version
            self.set_timeout(until - clock.monotonic())
            if isolation != "read committed":
                self._isolate(isolation)
            if version is not None:
                [(self.version,)] = self.call(_VERSION.of(address))
        except BaseException:
            self.close()
            raise

    def _connect(self) -> Any:
        now = clock.monotonic()
        pg = pq.PGconn.connect_start(self._address.conninfo(max(0.001, self._deadline - now)))
        try:
            while True:
                status = pg.connect_poll() if pg.status != pq.ConnStatus.BAD else pq.PollingStatus.FAILED
                if status == pq.PollingStatus.OK:
                    return pg
                if status == pq.PollingStatus.FAILED:
                    raise _refusal(pg.get_error_message())
                self._wait(pg, select.POLLIN if status == pq.PollingStatus.READING else select.POLLOUT)
        except BaseException:
            pg.finish()
            raise

    def _isolate(self, isolation: str) -> None:
        """Our functions must see what was committed while they waited."""
        if not self.hears:
            raise ServerError(
                f"default_transaction_isolation is {isolation!r}, and behind a pooler that cannot be changed here: "
                "set it to 'read committed' for this user",
                "XX000",
            )
        self.call(_ISOLATE)

    def set_timeout(self, timeout: float) -> None:
        """Seconds that each call may take from now on."""
        self._timeout = max(0.001, timeout)

    def call(self, verb: Verb, *arguments: Any) -> list[tuple[Any, ...]]:
        """One round trip. Raises: OSError (the connection is then of no use), ServerError."""
        sql = self._written.get(verb)
        if sql is None:
            sql = self._written[verb] = self._address.written(verb.sql).encode()
        values = verb.write(arguments)
        tries = TRIES
        self._deadline = clock.monotonic() + self._timeout
        while True:
            try:
                return verb.read(self._run(partial(
                    self._pg.send_query_params, sql, values,
                    param_types=verb.oids, param_formats=verb.formats, result_format=1,
                )))  # fmt: skip
            except ServerError as exc:
                tries -= 1
                if not exc.code.startswith("40") or not tries:
                    raise

    def script(self, sql: str) -> None:
        """Several statements without parameters, as one transaction. Raises: as `call`."""
        self._deadline = clock.monotonic() + self._timeout
        self._run(partial(self._pg.send_query, self._address.written(sql).encode()))

    def _run(self, send: Callable[[], None]) -> Any:
        """Send, and wait for the last result."""
        pg = self._pg
        last: Any = None
        try:
            send()
            while pg.flush():
                if self._wait(pg, select.POLLIN | select.POLLOUT) & select.POLLIN:
                    pg.consume_input()
            while True:
                while pg.is_busy():
                    self._wait(pg, select.POLLIN)
                    pg.consume_input()
                result = pg.get_result()
                if result is None:
                    break
                if last is None or last.status != pq.ExecStatus.FATAL_ERROR:
                    last = result
        except psycopg.Error as exc:
            raise ConnectionError(str(exc).strip()) from exc
        self.note_pushes()
        if last is None or last.status == pq.ExecStatus.FATAL_ERROR:
            self._fail(last)
        return last

    def _fail(self, result: Any) -> None:
        """Raise what a result says."""
        code = b"" if result is None else result.error_field(pq.DiagnosticField.SQLSTATE) or b""
        text = self._pg.get_error_message() if result is None else _first_line(result)
        if not code or self._pg.status == pq.ConnStatus.BAD:
            raise ConnectionError(text or "the server closed the connection")
        raise ServerError(text, code.decode())

    def _wait(self, pg: Any, events: int) -> int:
        """Until the socket is ready. Raises: TimeoutError: not by the deadline."""
        remaining = self._deadline - clock.monotonic()
        poller = select.poll()
        poller.register(pg.socket, events)
        ready = poller.poll(max(0.0, remaining) * 1000)
        if not ready:
            raise TimeoutError("the server does not answer")
        return ready[0][1]

    def wait_readable(self, timeout: float, alarm: Alarm | None = None) -> bool:
        """Wait at most `timeout` seconds for something to read, or for an alarm.

        True: the alarm has rung. The only method that may run beside another thread's call.
        """
        poller = select.poll()
        poller.register(self._pg.socket, select.POLLIN)
        if alarm is None:
            poller.poll(max(0.0, timeout) * 1000)
            return False
        poller.register(alarm, select.POLLIN)
        return any(fd == alarm.fileno() for fd, _ in poller.poll(max(0.0, timeout) * 1000))

    def is_closed(self) -> bool:
        """Whether the server has closed it while it was idle, as one that expects nothing sees it.

        In a forked child it is: what the child read of it, the parent would wait for in vain.
        """
        if self.pid != os.getpid():
            return True
        try:
            self.gather()
        except OSError:
            return True
        return False

    def gather(self) -> bool:
        """Note notifications that have arrived, without waiting. True: there are some. Raises: OSError."""
        poller = native.poll()
        poller.register(self._pg.socket, select.POLLIN)
        try:
            while poller.poll(0):
                self._pg.consume_input()
        except psycopg.Error as exc:
            raise ConnectionError(str(exc).strip()) from exc
        self.note_pushes()
        return bool(self.pushes)

    def note_pushes(self) -> None:
        """Take what libpq has kept of notifications."""
        while (push := self._pg.notifies()) is not None:
            self.pushes.append((push.relname.decode(), push.extra.decode()))

    def close(self) -> None:
        """End it; in a forked child only our copy of the socket, over which the parent goes on."""
        if self.pid == os.getpid():
            self._pg.finish()
        else:
            with contextlib.suppress(OSError, psycopg.Error):
                os.close(self._pg.socket)


class _Asked:
    """A statement that the schema's name is a text in."""

    def __init__(self, sql: str, gives: str) -> None:
        self._sql = sql
        self._gives = gives
        self._made: dict[str, Verb] = {}

    def of(self, address: Address) -> Verb:
        made = self._made.get(address.schema)
        if made is None:
            sql = self._sql.replace("%s", address.schema)
            made = self._made.setdefault(address.schema, Verb(sql, "", self._gives))
        return made


_HELLO: Final = _Asked(
    "SELECT pg_backend_pid(), to_regclass('%s.versions')::oid::bigint::integer, "
    "current_setting('default_transaction_isolation')",
    "int int text",
)  # fmt: skip
_ISOLATE: Final = Verb("SET default_transaction_isolation = 'read committed'")
_VERSION: Final = _Asked("SELECT max(number) FROM %s.versions", "int")


def _first_line(result: Any) -> str:
    text = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b""
    return str(text.decode(errors="replace"))


def _refusal(text: str) -> Exception:
    """What a failed attempt to connect was."""
    text = " ".join(text.split())
    code = next((code for part, code in _TEXTS.items() if part in text), "")
    return ServerError(text, code) if code and "FATAL" in text else ConnectionError(text)


class Pool(pool.Pool[Connection]):
    """The connections of one process to one server. `open_one` connects and sees to the schema."""

    def __init__(self, address: Address, open_one: Callable[[Address, float], Connection]) -> None:
        super().__init__(partial(open_one, address), address.pool_limit)
        self._address = address

    def call(self, verb: Verb, *arguments: Any) -> list[tuple[Any, ...]]:
        """One call. Raises: OSError, ServerError."""
        with self.connection(self._address.timeout) as connection:
            return connection.call(verb, *arguments)


broker_errors: Final = partial(errors.broker_errors, psycopg.Error)
store_errors: Final = partial(errors.store_errors, psycopg.Error)
