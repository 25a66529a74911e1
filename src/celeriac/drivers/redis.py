"""A lean connection to a Redis or Valkey server, for the broker and the result store.

RESP3 over a socket, packed and parsed by hiredis. A full client library costs a worker 14 MB and twice the time
for each call (docs/design/0002-lean-redis-connection.md), and a worker needs scripts, one subscription and a handful of
commands. RESP3 lets one connection carry commands and subscription messages, so that a worker's child has one.

Errors leave this module as ours, by `translate`: nothing above knows hiredis or sockets.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import hiredis

from celeriac import clock, native, plugins
from celeriac.drivers import dialing, errors, pool
from celeriac.drivers.alarm import Alarm
from celeriac.drivers.options import number, truth
from celeriac.exceptions import ImproperlyConfigured
from celeriac.urls import Url

if TYPE_CHECKING:
    from celeriac.drivers.redis_cluster import Cluster, ClusterPool
    from celeriac.drivers.redis_sentinel import Sentinels

T = TypeVar("T")
Reply = Any
Command = tuple[Any, ...]

#: Default prefix of every key; `global_keyprefix` of the transport options or `?prefix=` of the URL replace it.
PREFIX: Final = "celeriac:"

#: Error replies about the state that the server is in, which may pass: it starts, fails over, is busy with a script,
#: has no room. The broker is away then, and is tried again. Every other error is a refusal, and told at once.
_PASSING: Final = (
    "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MAXCLIENTS", "MISCONF", "NOREPLICAS", "OOM", "READONLY",
    "TRYAGAIN", "UNBLOCKED",
)  # fmt: skip
#: Errors whose first word does not say which they are: what their text contains, and the word for it.
_WORDLESS: Final = {
    "max number of clients": "MAXCLIENTS",
    "-READONLY You can't write": "READONLY",
    "user executing the script can't": "NOPERM",
    "ACL failure in script": "NOPERM",
}
_ADVICE: Final = {
    "OOM": "the server's memory is full: raise maxmemory, or find out which queue or result fills it",
    "READONLY": "this server is a replica that cannot be written: point the URL at the primary",
    "NOAUTH": "the server wants a password: write it in the URL, redis://:password@host",
    "WRONGPASS": "the user name or the password of the URL is wrong",
    "NOPERM": "the user of the URL may not run this command: see the server's ACL",
    "MISCONF": "the server cannot write its snapshot to disk and refuses writes: see its log",
    "BUSY": "somebody's script has run for long: wait for it, or end it with SCRIPT KILL",
    "CLUSTERDOWN": "a part of the cluster has no primary",
    "LOADING": "the server is loading its data from disk",
    "MAXCLIENTS": "the server has too many connections: raise its maxclients, or find out who holds them",
    "MASTERDOWN": "this replica has lost its primary",
    "MOVED": "this server is a node of a cluster: write redis+cluster:// in the URL",
    "NOREPLICAS": "too few replicas answer, and min-replicas-to-write forbids to go on",
}


class ServerError(errors.ServerError):
    """The server answered a command with an error. `code` is its first word, or a word of ours that says more."""

    advice = _ADVICE

    def __init__(self, text: str) -> None:
        code = text.partition(" ")[0]
        if code == "ERR":
            code = next((known for part, known in _WORDLESS.items() if part in text), code)
        super().__init__(text, code)

    @property
    def passing(self) -> bool:
        return self.code in _PASSING


class ClusterError(ServerError):
    """A node's answer. That a slot is elsewhere, or on its way, passes: the next call goes to where it is then."""

    @property
    def passing(self) -> bool:
        return super().passing or self.code in ("ASK", "MOVED")


class Address:
    """Where the server is and how to get in, from a URL and transport options."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        query = {**options, **url.query}
        self.unix_path: str | None = None
        #: Who tells where the primary is; None: the URL does.
        self.sentinels: Sentinels | None = None
        #: The cluster, of which any node is meant, or, in what `Cluster.node_of` returns, this one.
        self.cluster: Cluster | None = None
        database = query.get("virtual_host") or query.get("db")
        if url.scheme == "unix":
            self.unix_path = url.path or "/"
        elif url.scheme.endswith("sentinel"):
            module: Any = plugins.load("celeriac.drivers.redis_sentinel")
            name, path_database = module.service_of(url, query)
            self.sentinels = module.Sentinels(url, query, name)
            database = path_database or database
        elif url.path.strip("/"):
            database = url.path.strip("/")
        if url.scheme.endswith("cluster"):
            module = plugins.load("celeriac.drivers.redis_cluster")
            self.cluster = module.Cluster(url, query, self)
        self.host = url.host or "localhost"
        self.port = url.port or 6379
        self.username = url.username
        self.password = url.password
        self.prefix = str(query.get("prefix", query.get("global_keyprefix", PREFIX)))
        if self.prefix and not self.prefix.endswith((":", "/", ".", "-", "_")):
            self.prefix += ":"
        self.connect_timeout = number(query, "socket_connect_timeout", 4.0)
        self.timeout = number(query, "socket_timeout", 10.0)
        #: The most connections of a pool; 0 is no limit.
        self.pool_limit = int(number(query, "pool_limit", 10))
        #: How many replicas must have a message before its sending is over.
        self.replicas = int(number(query, "wait_replicas", 0))
        self.keepalive = truth(query, "socket_keepalive") is not False
        self.client_name = query.get("client_name")
        self.tls = dialing.tls_context(query, wanted=url.scheme.startswith("rediss"))
        try:
            self.database = int(database or 0)
        except ValueError:
            raise ImproperlyConfigured(
                f"{url}: the part after the last slash is the database's number, not {database!r}"
            ) from None

    @property
    def place(self) -> str:
        """Server, database and prefix, without secrets."""
        where = self.unix_path or f"{self.host}:{self.port}"
        if self.sentinels is not None:
            where = f"{self.sentinels.name} (sentinels {self.sentinels})"
        if self.cluster is not None:
            where = f"cluster {self.cluster}"
        keys = "" if self.prefix == PREFIX else f" (keys {self.prefix}*)"
        return f"redis {where}/{self.database}{keys}"

    def at(self, key: str | bytes, timeout: float) -> Address:
        """The server that has a key: this one, unless it is a cluster. Raises: OSError."""
        return self if self.cluster is None else self.cluster.node_of(key, timeout)

    def dial(self, timeout: float) -> socket.socket:
        """A connected socket within `timeout` seconds, the name lookup included. Raises: OSError."""
        deadline = clock.monotonic() + timeout
        if self.unix_path is not None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(timeout)
            with dialing.closed_on_error(sock):
                sock.connect(self.unix_path)
            return sock
        host, port = self.host, self.port
        if self.sentinels is not None:
            host, port = self.sentinels.primary(timeout)
        elif self.cluster is not None and self is self.cluster.address:
            host, port = self.cluster.some_node(timeout)
        return dialing.dial(host, port, deadline, self.tls, keepalive=self.keepalive)


class Connection:
    """One connection. Not safe for several threads at once: its holder locks."""

    def __init__(self, address: Address, timeout: float) -> None:
        """Connect and log in within `timeout` seconds. Raises: OSError, ServerError."""
        self.pid = os.getpid()
        #: No other connection has it.
        self.name = os.urandom(8).hex()
        self.pushes: deque[list[Any]] = deque()
        self._cluster = address.cluster
        error = ServerError if address.cluster is None else ClusterError
        self._reader = hiredis.Reader(notEnoughData=_NOTHING, replyError=error)
        try:
            self._sock = address.dial(min(timeout, address.connect_timeout))
            with dialing.closed_on_error(self._sock):
                self._sock.settimeout(max(0.001, timeout))
                self._log_in(address)
        except BaseException:
            if address.cluster is not None:
                address.cluster.forget()
            raise

    def _log_in(self, address: Address) -> None:
        hello: Command = ("HELLO", "3")
        if address.password is not None:
            hello += ("AUTH", address.username or "default", address.password)
        if address.client_name:
            hello += ("SETNAME", str(address.client_name))
        commands: list[Command] = [hello]
        if address.database:
            commands.append(("SELECT", address.database))
        if address.sentinels is not None:
            commands.append(("ROLE",))
        replies = self.pipeline(commands)
        for reply in replies:
            if isinstance(reply, ServerError):
                raise reply
        if address.sentinels is not None and replies[-1][0] != b"master":
            raise ConnectionError(
                "the server that the sentinels name is a replica: they are behind, or a failover goes on"
            )

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()

    def set_timeout(self, timeout: float) -> None:
        """Seconds that a reply may take from now on."""
        self._sock.settimeout(max(0.001, timeout))

    def call(self, *command: Any) -> Reply:
        """One round trip. Raises: OSError (the connection is then of no use), ServerError."""
        self._sock.sendall(_pack(command))
        reply = self._read()
        if isinstance(reply, ServerError):
            raise reply
        return reply

    def pipeline(self, commands: Sequence[Command]) -> list[Reply]:
        """Many commands, one round trip. Error replies are returned in their places. Raises: OSError."""
        self._sock.sendall(b"".join(map(_pack, commands)))
        return [self._read() for _ in commands]

    def script(self, script: Script, *arguments: Any) -> Reply:
        """Run a script, whose first argument is its key. Loads it where the server does not have it."""
        if script.sha is not None:
            try:
                return self.call("EVALSHA", script.sha, 1, *arguments)
            except ServerError as exc:
                if exc.code != "NOSCRIPT":
                    raise
        script.sha = self.call("SCRIPT", "LOAD", script.source)
        return self.call("EVALSHA", script.sha, 1, *arguments)

    def _read(self) -> Reply:
        gets = self._reader.gets
        while True:
            reply = gets()
            if reply is _NOTHING:
                self._fill(self._sock.recv(65536))
            elif type(reply) is hiredis.PushNotification:
                self.pushes.append(list(reply))
            else:
                if isinstance(reply, ServerError):
                    self._note_move(reply)
                return reply

    def _note_move(self, error: ServerError) -> None:
        if self._cluster is not None and error.code in ("CLUSTERDOWN", "MOVED"):
            self._cluster.forget()
        elif error.code == "READONLY":
            # Another is the primary now: whoever uses this connection next connects again.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def _fill(self, data: bytes) -> None:
        if not data:
            raise ConnectionError("the server closed the connection")
        self._reader.feed(data)

    def subscribe(self, *channels: str | bytes) -> None:
        """Follow channels from now on. The server answers with pushes; the PING behind them marks their end."""
        self.pipeline_pushed(("SUBSCRIBE", *channels))

    def unsubscribe(self, *channels: str | bytes) -> None:
        """Follow these channels no longer."""
        self.pipeline_pushed(("UNSUBSCRIBE", *channels))

    def pipeline_pushed(self, command: Command) -> None:
        """Send a command that is answered by pushes only. Raises: OSError, ServerError."""
        before = len(self.pushes)
        self._sock.sendall(_pack(command) + _pack(("PING",)))
        reply = self._read()
        if isinstance(reply, ServerError):
            # A server that is loading, or has lost its primary, obeys the command and refuses the PING.
            kind = str(command[0]).lower().encode()
            if not any(push[0] == kind for push in itertools.islice(self.pushes, before, None)):
                self._read()
            raise reply

    def send(self, command: Command) -> None:
        """Send a command that is answered by pushes only, and do not wait for them. Raises: OSError."""
        self._sock.sendall(_pack(command))

    def wait_readable(self, timeout: float, alarm: Alarm | None = None) -> bool:
        """Wait at most `timeout` seconds for something to read, or for an alarm.

        True: the alarm has rung. The only method that may run beside another thread's call.
        """
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        if alarm is None:
            poller.poll(max(0.0, timeout) * 1000)
            return False
        poller.register(alarm, select.POLLIN)
        return any(fd == alarm.fileno() for fd, _ in poller.poll(max(0.0, timeout) * 1000))

    def is_closed(self) -> bool:
        """Whether the server has closed it while it was idle, as one that expects nothing sees it."""
        poller = native.poll()
        poller.register(self._sock, select.POLLIN)
        return bool(poller.poll(0))

    def gather(self) -> bool:
        """Note pushes that have arrived, without waiting. True: there are some. Raises: OSError.

        To be called before every wait: a push that came in one piece with a reply is in the parser already, and
        the socket would never tell of it.
        """
        self.parse_pushes()
        poller = native.poll()
        poller.register(self._sock, select.POLLIN)
        while poller.poll(0):
            self._fill(self._sock.recv(65536))
            self.parse_pushes()
        return bool(self.pushes)

    def _is_read_ahead(self) -> bool:
        """Whether TLS has decrypted more than was asked for: the socket would not tell of that."""
        pending: Callable[[], int] | None = getattr(self._sock, "pending", None)
        return pending is not None and pending() > 0

    def parse_pushes(self) -> None:
        """Note pushes that came in one piece with the last reply. To be called with no reply outstanding."""
        while True:
            while (reply := self._reader.gets()) is not _NOTHING:
                if type(reply) is not hiredis.PushNotification:
                    raise ConnectionError("the server sent a reply that nobody asked for")
                self.pushes.append(list(reply))
            if not self._is_read_ahead():
                return
            self._fill(self._sock.recv(65536))


_NOTHING: Final = object()
_pack: Callable[[Command], bytes] = hiredis.pack_command  # pyright: ignore


class Script:
    """A server-side script: its source and the name that servers keep it under (None until one was asked)."""

    def __init__(self, *parts: str) -> None:
        # Most of each is what all have in common: joined, they would be half a megabyte in every process.
        self._parts = parts
        self.sha: bytes | None = None

    @property
    def source(self) -> str:
        return "".join(self._parts)


def read_scripts(*paths: str) -> dict[str, Script]:
    """The scripts of Lua files: sections that begin with `--[[ script NAME`, each behind the common part of the first
    file and behind `redis_joins.lua`."""
    with open(f"{os.path.dirname(__file__)}/redis_joins.lua", encoding="utf-8") as file:
        shared = file.read()
    common, sections = "", list[str]()
    for path in paths:
        with open(path, encoding="utf-8") as file:
            head, *more = file.read().split("--[[ script ")
        common, sections = common or head, sections + more
    return {
        section.split(maxsplit=1)[0].rstrip(":"): Script(shared, common, f"--[[ {section}")
        for section in sections
    }


class Pool(pool.Pool[Connection]):
    """The connections of one process to one server."""

    def __init__(self, address: Address) -> None:
        super().__init__(partial(Connection, address), address.pool_limit)

    def at(self, key: str | bytes, timeout: float) -> Pool:
        """The pool of the server that has a key: this one."""
        return self

    def run(self, key: str | bytes, timeout: float, work: Callable[[Connection], T]) -> T:
        """What a few calls for one key give. Raises: OSError, ServerError."""
        with self.connection(timeout) as connection:
            return work(connection)

    def run_everywhere(self, timeout: float, work: Callable[[Connection], T]) -> list[T]:
        """What a few calls give at every server: this one. Raises: OSError, ServerError."""
        return [self.run("", timeout, work)]


def make_pool(address: Address) -> Pool | ClusterPool:
    """The connections of one process to a server, or to a cluster."""
    return Pool(address) if address.cluster is None else address.cluster.pool()


def cautions(info: str) -> list[str]:
    """What the memory section of `INFO` tells of keys that the server deletes by itself."""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    policy, limit = fields.get("maxmemory_policy", "noeviction"), int(fields.get("maxmemory", 0))
    if policy == "noeviction" or not limit:
        return []
    lost = "results before their time" if policy.startswith("volatile") else "messages, leases and results"
    return [
        f"maxmemory-policy is {policy}: at {limit:,} bytes (maxmemory) the server deletes {lost}, and tells nobody; "
        "set it to noeviction"
    ]


broker_errors: Final = partial(errors.broker_errors, hiredis.HiredisError)
store_errors: Final = partial(errors.store_errors, hiredis.HiredisError)
