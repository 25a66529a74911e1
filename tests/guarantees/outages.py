"""Every way in which a Redis server can be away, made with a real server: one context manager each.

A test opens an outage for as long as its `with` block, and finds the server as it was behind it. `Wire` is the
server and the way to it; whoever is to feel the outage goes by `Wire.url`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from tests.chaos.proxy import Network, Proxy
from tests.servers import PrivateRedis, RedisClient, RedisError

#: So that a script counts as long at once, and a load is slow where it is to be.
ARGUMENTS = (
    "--busy-reply-threshold", "50", "--enable-debug-command", "local",
    "--loading-process-events-interval-bytes", "1024", "--repl-timeout", "3600",
)  # fmt: skip


class Wire:
    """A server and the proxy before it. `operator` is a connection that no outage but the hard ones closes."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.server = PrivateRedis(folder, *ARGUMENTS, appendonly=True)
        self.proxy = network.proxy(self.server.port)
        self.url = f"redis://127.0.0.1:{self.proxy.port}/0"
        self.direct = self.server.url
        self.operator = self.server.client()

    def call(self, *words: str | bytes | int) -> object:
        """What somebody who operates the server does."""
        return self.operator.call(*words)

    def close(self) -> None:
        self.operator.close()
        self.server.kill()

    def hang_up(self) -> None:
        """Everybody else must log in anew."""
        self.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        self.call("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")


@contextlib.contextmanager
def stopped(wire: Wire) -> Iterator[None]:
    wire.operator.close()
    wire.server.stop()
    try:
        yield
    finally:
        wire.server.start()
        wire.operator = wire.server.client()


@contextlib.contextmanager
def hanging(wire: Wire) -> Iterator[None]:
    with wire.server.frozen():
        yield


class Proxied(Protocol):
    """What is reached by a proxy."""

    @property
    def proxy(self) -> Proxy: ...


def by_proxy(mode: str) -> Callable[[Proxied], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def outage(wire: Proxied) -> Iterator[None]:
        wire.proxy.set_mode(mode)
        try:
            yield
        finally:
            wire.proxy.set_mode("open")

    return outage


def _by_command(
    begin: list[tuple[str, ...]], end: list[tuple[str, ...]], hang_up: bool = False
) -> Callable[[Wire], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def outage(wire: Wire) -> Iterator[None]:
        for words in begin:
            wire.call(*words)
        if hang_up:
            wire.hang_up()
        try:
            yield
        finally:
            for words in end:
                wire.call(*words)

    return outage


@contextlib.contextmanager
def busy(wire: Wire) -> Iterator[None]:
    def run() -> None:
        with RedisClient(wire.server.url, 60.0) as client, contextlib.suppress(RedisError):
            client.call("EVAL", "while true do end", 0)

    script = threading.Thread(target=run)
    script.start()
    _wait_for(wire, "BUSY")
    try:
        yield
    finally:
        wire.call("SCRIPT", "KILL")
        script.join()


@contextlib.contextmanager
def loading(wire: Wire) -> Iterator[None]:
    """The server reads its own data anew, slowly."""
    wire.call("EVAL", "for n = 1, 20000 do redis.call('set', 'filler' .. n, string.rep('x', 500)) end", 0)
    wire.call("CONFIG", "SET", "key-load-delay", 1_000)

    def run() -> None:
        with RedisClient(wire.server.url, 60.0) as client:
            client.call("DEBUG", "RELOAD")

    reload = threading.Thread(target=run)
    reload.start()
    _wait_for(wire, "LOADING")
    try:
        yield
    finally:
        wire.call("CONFIG", "SET", "key-load-delay", 0)
        reload.join()
        wire.call("EVAL", "for n = 1, 20000 do redis.call('del', 'filler' .. n) end", 0)


def _wait_for(wire: Wire, code: str) -> None:
    while True:
        try:
            wire.call("PING")
        except RedisError as exc:
            assert str(exc).startswith(code), exc
            return


#: A server that can be reached and is in no state to store: name, how, and what a sender is told.
STATES: dict[str, tuple[Callable[[Wire], contextlib.AbstractContextManager[None]], str]] = {
    "full": (
        _by_command([("CONFIG", "SET", "maxmemory", "1")], [("CONFIG", "SET", "maxmemory", "0")]),
        "OOM.*raise maxmemory",
    ),
    "replica": (
        _by_command([("REPLICAOF", "127.0.0.1", "1")], [("REPLICAOF", "NO", "ONE")]),
        "READONLY.*point the URL at the primary",
    ),
    "replica without its primary": (
        _by_command(
            [("CONFIG", "SET", "replica-serve-stale-data", "no"), ("REPLICAOF", "127.0.0.1", "1")],
            [("REPLICAOF", "NO", "ONE"), ("CONFIG", "SET", "replica-serve-stale-data", "yes")],
        ),
        "MASTERDOWN.*lost its primary",
    ),
    "busy": (busy, "BUSY.*SCRIPT KILL"),
    "loading": (loading, "LOADING.*from disk"),
    "too many clients": (
        _by_command(
            [("CONFIG", "SET", "maxclients", "1")], [("CONFIG", "SET", "maxclients", "1000")], hang_up=True
        ),
        "max number of clients.*raise its maxclients",
    ),
}
#: A server that cannot be reached.
SILENCES: dict[str, tuple[Callable[[Wire], contextlib.AbstractContextManager[None]], str]] = {
    "stopped": (stopped, "not stored within"),
    "hanging": (hanging, "not stored within"),
    "half-open": (by_proxy("half-open"), "not stored within"),
    "resetting": (by_proxy("cut"), "not stored within"),
    "refusing": (by_proxy("refuse"), "not stored within"),
}
#: A server that will say no until somebody changes something, there or here.
REFUSALS: dict[str, tuple[Callable[[Wire], contextlib.AbstractContextManager[None]], str]] = {
    "password changed": (
        _by_command(
            [("CONFIG", "SET", "requirepass", "changed")],
            [("CONFIG", "SET", "requirepass", "")],
            hang_up=True,
        ),
        "NOAUTH.*write it in the URL",
    ),
    "scripts forbidden": (
        _by_command(
            [("ACL", "SETUSER", "default", "-evalsha", "-eval")], [("ACL", "SETUSER", "default", "+@all")]
        ),
        "NOPERM.*see the server's ACL",
    ),
    "commands in scripts forbidden": (
        _by_command(
            [("ACL", "SETUSER", "default", "-rpush", "-lpop", "-lmove", "-hset", "-zadd", "-set")],
            [("ACL", "SETUSER", "default", "+@all")],
        ),
        "user executing the script.*see the server's ACL",
    ),
}
ALL = {**STATES, **SILENCES, **REFUSALS}
#: Sends and renewals go on, and nobody can take.
no_takes = _by_command(
    [("ACL", "SETUSER", "default", "-subscribe")], [("ACL", "SETUSER", "default", "+@all")], hang_up=True
)
#: A server that forgets its scripts goes on at once.
forgetting = _by_command([("SCRIPT", "FLUSH")], [])
