"""A channel of a connection to a RabbitMQ server: what is asked over it, and what comes.

A connection (`celeriac.drivers.amqp`) has several, which share its socket and its time.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from celeriac.drivers import amqp_wire as wire
from celeriac.drivers.amqp_address import ServerError
from celeriac.drivers.amqp_wire import Message, Method, Value, short, table

#: The most messages that one consumer is given before it acknowledges.
MOST_UNACKED: Final = 65_535


class Carrier(Protocol):
    """What a channel needs of its connection."""

    @property
    def frame_max(self) -> int: ...

    @property
    def blocked(self) -> str | None:
        """Why the server reads nothing any more; None: it does."""
        ...

    def write(self, data: bytes) -> None:
        """Send it, soon."""
        ...

    def wait(self, condition: Callable[[], bool], channel: Channel | None) -> None:
        """Send what is to be sent, and read until the condition holds. Raises: OSError, ServerError."""
        ...

    def forget(self, channel: Channel) -> None:
        """The channel is closed on both sides."""
        ...

    def note_flow(self) -> None:
        """The server has taken what was published."""
        ...


class Channel:
    """One channel of a connection: methods that are answered in their order, confirmations, and deliveries."""

    def __init__(self, connection: Carrier, number: int) -> None:
        self._connection = connection
        self.number = number
        #: Answers that have come; how many methods wait for theirs.
        self.answers: deque[bytes] = deque()
        self._asked = 0
        self.deliveries: deque[Message] = deque()
        #: What came back because there is no such queue.
        self.returned: list[Message] = []
        #: Consumers that the server has ended, because their queue is gone.
        self.cancelled: set[str] = set()
        self.error: ServerError | None = None
        self.is_closed = False
        self._published = 0
        self._unconfirmed: dict[int, None] = {}
        self._refused = 0
        #: Whether the server could not store something that was published here. In a cluster the channel goes on to ask
        #: a node that is dead, for as long as it is used; a new one asks others.
        self.has_refused = False
        self.confirms = False

    # -- what is asked -------------------------------------------------------------------------------------

    def post(self, number: Method, arguments: bytes) -> None:
        """Send a method, soon, whose answer `gather` waits for."""
        self._asked += 1
        self.send(number, arguments)

    def send(self, number: Method, arguments: bytes) -> None:
        """Send a method, soon, that is not answered."""
        self._connection.write(wire.method(self.number, number, arguments))

    def gather(self) -> list[bytes]:
        """Wait for all answers. Returns them in the order of asking. Raises: ServerError, OSError."""
        self._connection.wait(lambda: len(self.answers) >= self._asked, self)
        found = list(self.answers)
        self.answers.clear()
        self._asked = 0
        return found

    def declare(
        self, queue: str, arguments: Mapping[str, Value], *, exclusive: bool = False, passive: bool = False
    ) -> None:
        """Answered by name, messages and consumers: see `counts`."""
        bits = passive | (not exclusive) << 1 | exclusive << 2 | exclusive << 3
        self.post(wire.QUEUE_DECLARE, b"\0\0" + short(queue) + bytes((bits,)) + table(arguments))

    def exchange(self, name: str, kind: str) -> None:
        self.post(wire.EXCHANGE_DECLARE, b"\0\0" + short(name) + short(kind) + b"\x02" + table({}))

    def bind(self, queue: str, exchange: str, key: str) -> None:
        self.post(wire.QUEUE_BIND, b"\0\0" + short(queue) + short(exchange) + short(key) + b"\0" + table({}))

    def bind_exchange(self, target: str, source: str, key: str) -> None:
        self.post(
            wire.EXCHANGE_BIND, b"\0\0" + short(target) + short(source) + short(key) + b"\0" + table({})
        )

    def delete(self, queue: str) -> None:
        self.post(wire.QUEUE_DELETE, b"\0\0" + short(queue) + b"\0")

    def delete_exchange(self, name: str) -> None:
        self.post(wire.EXCHANGE_DELETE, b"\0\0" + short(name) + b"\0")

    def purge(self, queue: str) -> None:
        self.post(wire.QUEUE_PURGE, b"\0\0" + short(queue) + b"\0")

    def consume(
        self, queue: str, tag: str, prefetch: int, *, no_ack: bool = False, exclusive: bool = False
    ) -> None:
        """Two methods, two answers. `prefetch`: so many unacknowledged deliveries at most."""
        self.post(wire.QOS, struct.pack(">IHB", 0, min(prefetch, MOST_UNACKED), 0))
        bits = no_ack << 1 | exclusive << 2
        self.post(wire.CONSUME, b"\0\0" + short(queue) + short(tag) + bytes((bits,)) + table({}))

    def get(self, queue: str) -> None:
        """Ask for one message, which comes as a delivery without a consumer before the answer; or for none, if there is
        none."""
        self.post(wire.GET, b"\0\0" + short(queue) + b"\0")

    def cancel(self, tag: str) -> None:
        self.post(wire.CANCEL, short(tag) + b"\0")

    def sync(self) -> None:
        """Something that is answered and does nothing."""
        self.post(wire.QOS, struct.pack(">IHB", 0, 1, 0))

    def ack(self, tag: int) -> None:
        self.send(wire.ACK, struct.pack(">QB", tag, 0))

    def nack(self, tag: int) -> None:
        """Give it back to its queue."""
        self.send(wire.NACK, struct.pack(">QB", tag, 2))

    def select_confirms(self) -> None:
        """From now on the server confirms what is published here."""
        self.post(wire.CONFIRM_SELECT, b"\0")
        self.confirms = True

    def select_transactions(self) -> None:
        """From now on what is published and acknowledged here takes effect with `commit`."""
        self.post(wire.TX_SELECT, b"")

    def commit(self) -> None:
        self.post(wire.TX_COMMIT, b"")

    def publish(
        self, exchange: str, key: str, body: bytes, *, persistent: bool = True, mandatory: bool = True
    ) -> None:
        """Send a message, soon. `mandatory`: if it reaches no queue, it comes back (`returned`)."""
        if self.confirms:
            self._published += 1
            self._unconfirmed[self._published] = None
        self._connection.write(
            wire.publication(
                self.number, exchange, key, body,
                persistent=persistent, mandatory=mandatory, most=self._connection.frame_max,
            )
        )  # fmt: skip

    @property
    def is_confirmed(self) -> bool:
        """Whether all that was published is confirmed, or refused."""
        return not self._unconfirmed

    def wait_confirmed(self) -> None:
        """Until all that was published is confirmed. Raises: ServerError: some was refused; OSError."""
        self._connection.wait(lambda: self.is_confirmed, self)
        if self._refused:
            count, self._refused = self._refused, 0
            self.has_refused = True
            raise ServerError(f"the server could not store {count} messages", "506")

    def close(self) -> None:
        """What was delivered and not acknowledged goes back. Waits for the answer, where there will be one.

        Raises: OSError.
        """
        if self.error is None and not self.is_closed:
            self.send(wire.CHANNEL_CLOSE, struct.pack(">H", 200) + short("") + b"\0\0\0\0")
            if self._connection.blocked is None:
                self._connection.wait(lambda: self.is_closed or self.error is not None, None)

    # -- what comes ----------------------------------------------------------------------------------------

    def come(self, number: Method, rest: bytes) -> None:
        """Note a method of the server's."""
        if number in (wire.ACK, wire.NACK):
            self._note_confirmation(number, *struct.unpack_from(">QB", rest))
            self._connection.note_flow()
        elif number == wire.CANCEL:
            self.cancelled.add(wire.texts(rest, 0, 1)[0][0])
            # Not the server's answer to ours, which has the next number.
        elif number == wire.CHANNEL_CLOSE:
            code = struct.unpack_from(">H", rest)[0]
            self.error = ServerError(f"{wire.texts(rest, 2, 1)[0][0]}", str(code))
            self.send(wire.CHANNEL_CLOSE_OK, b"")
            self._connection.forget(self)
        elif number == wire.CHANNEL_CLOSE_OK:
            self.is_closed = True
            self._connection.forget(self)
        else:
            if number == wire.TX_COMMIT_OK:
                self._connection.note_flow()
            self.answers.append(rest)

    def _note_confirmation(self, number: Method, tag: int, multiple: int) -> None:
        waiting = self._unconfirmed
        if multiple:
            while waiting and (first := next(iter(waiting))) <= tag:
                del waiting[first]
                self._refused += number == wire.NACK
        elif tag in waiting:
            del waiting[tag]
            self._refused += number == wire.NACK


def counts(answer: bytes) -> tuple[int, int]:
    """Of the answer to a declaration: how many messages are ready, and how many consumers there are."""
    _, at = wire.texts(answer, 0, 1)
    ready, consumers = struct.unpack_from(">II", answer, at)
    return ready, consumers
