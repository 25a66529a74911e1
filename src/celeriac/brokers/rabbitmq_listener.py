"""Hears notices of a RabbitMQ server over a connection of its own, which it makes anew when it is lost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from celeriac import clock
from celeriac.brokers.line_listener import LineListener
from celeriac.brokers.rabbitmq_names import word
from celeriac.brokers.rabbitmq_routes import Routes
from celeriac.drivers import amqp_wire as wire
from celeriac.drivers.amqp import Connection
from celeriac.drivers.amqp_address import Address, broker_errors
from celeriac.drivers.amqp_channel import Channel
from celeriac.drivers.amqp_nodes import connect

#: Seconds between two signs of life, of which the server misses two before it hangs up.
_HEARTBEAT: Final = 60


class _Ear(NamedTuple):
    """A connection, and the channel to which notices come."""

    connection: Connection
    channel: Channel

    def close(self) -> None:
        self.connection.close()


class RabbitListener(LineListener[_Ear]):
    """See `celeriac.brokers.contract.Listener`."""

    def __init__(self, address: Address, names: Sequence[str]) -> None:
        self._address = address
        self._names = list(names)
        super().__init__(partial(broker_errors, address.place))

    def _wait(self, deadline: float) -> list[tuple[str, bytes]]:
        while not self._is_closed:
            connection, channel = self._connected()
            connection.gather()
            if channel.error is not None:
                raise channel.error
            if channel.deliveries:
                told = [_notice(message.body) for message in channel.deliveries]
                channel.deliveries.clear()
                return told
            connection.beat()
            remaining = deadline - clock.monotonic()
            if remaining <= 0 or connection.wait_readable(min(remaining, connection.rest()), self._alarm):
                self._alarm.silence()
                return []
        return []

    def _connect(self) -> _Ear:
        connection = connect(self._address, self._address.timeout, _HEARTBEAT)
        try:
            routes = Routes(self._address)
            routes.ensure_exchanges(connection)
            channel = connection.channel()
            channel.declare("", {}, exclusive=True)
            [queue], _ = wire.texts(channel.gather()[-1], 0, 1)
            for name in self._names:
                channel.bind(queue, routes.names.notices, word(name))
            channel.consume(queue, "notices", 0, no_ack=True)
            channel.gather()
        except BaseException:
            connection.close()
            raise
        return _Ear(connection, channel)


def notice(name: str, data: bytes) -> bytes:
    """A notice as it travels."""
    text = name.encode()
    return len(text).to_bytes(4, "big") + text + data


def _notice(body: bytes) -> tuple[str, bytes]:
    end = 4 + int.from_bytes(body[:4], "big")
    return body[4:end].decode(), body[end:]
