"""Every way in which a RabbitMQ server can be away, made with a real server: what `outages` is for Redis.

The server is the session's; a test has a virtual host and a user of its own, so that what is done to them concerns it
alone.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator

from tests.chaos.proxy import Network
from tests.guarantees.outages import by_proxy
from tests.private_rabbitmq import PrivateRabbit

_ALL = ", ".join(['<<".*">>'] * 3)
_NONE = ", ".join(['<<"^$">>'] * 3)
_NO_HOLDINGS = ", ".join(['<<"^(?!celeriac.~held~).*">>'] * 3)


class RabbitWire:
    """A virtual host and the proxy before it. Who is to feel an outage goes by `url`, others by `direct`."""

    def __init__(self, server: PrivateRabbit, direct: str, network: Network) -> None:
        self.server = server
        self.direct = direct
        self.proxy = network.proxy(server.port)
        self.host = direct.rpartition("/")[2]
        self.user, self._password = f"user-{secrets.token_hex(4)}", secrets.token_hex(8)
        self.url = f"amqp://{self.user}:{self._password}@127.0.0.1:{self.proxy.port}/{self.host}"
        self._do(f'add_user(<<"{self.user}">>, <<"{self._password}">>, <<"tests">>)')
        self.allow(_ALL)

    def _do(self, call: str) -> None:
        self.server.evaluate(f"rabbit_auth_backend_internal:{call}.")

    def allow(self, patterns: str) -> None:
        """Let the user configure, write to and read what has these names."""
        self._do(f'set_permissions(<<"{self.user}">>, <<"{self.host}">>, {patterns}, <<"tests">>)')

    def shut_out(self) -> None:
        """Let the user not into the virtual host."""
        self._do(f'clear_permissions(<<"{self.user}">>, <<"{self.host}">>, <<"tests">>)')

    def change_password(self, password: str | None = None) -> None:
        """Without one: back to that of the URL."""
        self._do(f'change_password(<<"{self.user}">>, <<"{password or self._password}">>, <<"tests">>)')

    def limit_connections(self, most: int) -> None:
        """Negative: no limit."""
        limit = f'{{\\"max-connections\\":{most}}}'
        self.server.evaluate(f'rabbit_vhost_limit:parse_set(<<"{self.host}">>, <<"{limit}">>, <<"tests">>).')

    def hang_up(self) -> None:
        """Everybody must log in anew."""
        self.server.hang_up()

    def close(self) -> None:
        self._do(f'delete_user(<<"{self.user}">>, <<"tests">>)')


Outage = Callable[[RabbitWire], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def stopped(wire: RabbitWire) -> Iterator[None]:
    wire.server.evaluate("rabbit:stop().")
    try:
        yield
    finally:
        wire.server.evaluate("rabbit:start().")


@contextlib.contextmanager
def hanging(wire: RabbitWire) -> Iterator[None]:
    with wire.server.frozen():
        yield


def _short_of(what: str) -> Outage:
    @contextlib.contextmanager
    def outage(wire: RabbitWire) -> Iterator[None]:
        with wire.server.short_of(what):
            yield

    return outage


def _by_steps(begin: Callable[[RabbitWire], None], end: Callable[[RabbitWire], None]) -> Outage:
    @contextlib.contextmanager
    def outage(wire: RabbitWire) -> Iterator[None]:
        begin(wire)
        wire.hang_up()
        try:
            yield
        finally:
            end(wire)

    return outage


#: A server that can be reached and is in no state to store: name, how, and what a sender is told.
STATES: dict[str, tuple[Outage, str]] = {
    "memory": (_short_of("memory"), "short of memory"),
    "disk": (_short_of("disk"), "short of disk"),
    "too many connections": (
        _by_steps(lambda wire: wire.limit_connections(0), lambda wire: wire.limit_connections(-1)),
        "limit.*set_vhost_limits",
    ),
}
#: A server that cannot be reached.
SILENCES: dict[str, tuple[Outage, str]] = {
    "stopped": (stopped, "not stored within"),
    "hanging": (hanging, "not stored within"),
    "half-open": (by_proxy("half-open"), "not stored within"),
    "resetting": (by_proxy("cut"), "not stored within"),
    "refusing": (by_proxy("refuse"), "not stored within"),
}
#: A server that will say no until somebody changes something, there or here.
REFUSALS: dict[str, tuple[Outage, str]] = {
    "password changed": (
        _by_steps(lambda wire: wire.change_password("changed"), RabbitWire.change_password),
        "ACCESS_REFUSED.*the user name or the password of the URL is wrong",
    ),
    "permissions taken": (
        _by_steps(lambda wire: wire.allow(_NONE), lambda wire: wire.allow(_ALL)),
        "ACCESS_REFUSED.*rabbitmqctl set_permissions",
    ),
    "shut out": (
        _by_steps(RabbitWire.shut_out, lambda wire: wire.allow(_ALL)),
        "NOT_ALLOWED.*rabbitmqctl set_permissions",
    ),
}
ALL = {**STATES, **SILENCES, **REFUSALS}
#: Sends and renewals go on, and nobody can take: no child may use what it would hold messages in.
no_takes = _by_steps(lambda wire: wire.allow(_NO_HOLDINGS), lambda wire: wire.allow(_ALL))
