"""The ways to queues: which there are, how they are made, and the chain that delays messages.

Every process keeps in mind which queues it has seen to; the register `~queues` lists all, with what else is to be known
of each. Whoever changes a register tells consumers of the change, by the exchange `~changes`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from celeriac import clock
from celeriac.brokers.contract import Outgoing
from celeriac.brokers.rabbitmq_names import SEIZED, Names, part_of, unwrap, word, wrap
from celeriac.brokers.rabbitmq_seizing import Register, queue_arguments
from celeriac.drivers.amqp import Connection
from celeriac.drivers.amqp_address import Address
from celeriac.drivers.amqp_channel import Channel
from celeriac.drivers.amqp_wire import Value
from celeriac.message import is_transient

#: The chain: its first queue keeps messages for so many milliseconds, each one behind it twice as long as the last.
_UNIT: Final = 10
LEVELS: Final = 28
#: The longest way through the chain (seconds), some 31 days; what is due later goes through it again.
_LONGEST: Final = ((1 << LEVELS) - 1) * _UNIT / 1000


class Known(msgspec.Struct):
    """What is to be known of a queue: which parts it has, whether it is paused, how many letters were evicted."""

    parts: list[str] = []
    paused: bool = False
    evicted: int = 0


class Change(msgspec.Struct, frozen=True):
    """What consumers are told: a queue has a new part, or is paused or not any more, or tasks of it are revoked (with
    the end of that, epoch seconds) or forgotten, or it is deleted."""

    queue: str
    part: str | None = None
    paused: bool | None = None
    revoked: dict[bytes, float] = {}
    forgotten: list[bytes] = []
    is_gone: bool = False


class Post(NamedTuple):
    """A message on its way into a part of a queue."""

    queue: str
    part: str
    body: bytes
    due_at: float | None = None


def post(outgoing: Outgoing) -> Post:
    """A new message."""
    return Post(outgoing.queue, part_of(outgoing.priority), wrap(outgoing.data), outgoing.due_at)


class Routes:
    """See the module. Safe for threads, as what is made twice is there once."""

    def __init__(self, address: Address) -> None:
        self.names = Names(address.prefix)
        self.kind = address.kind
        #: Whether what is acknowledged together is one transaction. On classic queues it is not: what is published for
        #: it is confirmed first, as a server that is killed loses messages of their transactions.
        self.transactions = address.kind == "quorum"
        #: Whether what is published for it is confirmed first, over another channel, because queues of several nodes
        #: lose messages of transactions as well (docs/design/0009-rabbitmq.md).
        self.is_cluster = address.is_cluster
        self._is_apart = self.transactions and address.is_cluster
        self.queues = Register(self.names.queues, self.kind, dict[str, Known], {})
        #: Queues of the server that this process has seen to, by their names there.
        self._made: dict[str, tuple[str, str]] = {}
        self._has_chain = False
        self._has_exchanges = False

    def forget(self) -> None:
        """Somebody has deleted what was there: look again."""
        self._made.clear()
        self._has_chain = self._has_exchanges = False

    def lacks(self, parts: Iterable[tuple[str, str]]) -> bool:
        """Whether `ensure` would have something to do."""
        return any(self.names.part(*which) not in self._made for which in parts)

    def ensure(self, connection: Connection, parts: Iterable[tuple[str, str]]) -> None:
        """See to it that these parts of queues are there, and that it is known. Raises: OSError, ServerError."""
        missing = {
            name: which
            for which in dict.fromkeys(parts)
            if (name := self.names.part(*which)) not in self._made
        }
        if not missing:
            return
        self.ensure_exchanges(connection)
        with connection.borrowed() as channel:
            for name, (_, part) in missing.items():
                channel.declare(name, queue_arguments(self.kind, single=part in SEIZED))
                channel.bind(name, self.names.due, f"#.{word(name)}")
            channel.gather()
        with self.queues.opened(connection) as draft:
            for queue, part in missing.values():
                known = draft.value.setdefault(queue, Known())
                if part not in known.parts:
                    known.parts.append(part)
                    draft.is_changed = True
                    draft.told.append(self.change(Change(queue, part)))
        self._made |= missing

    def learn(self, queues: Mapping[str, Known]) -> None:
        """These were told of by their register: whoever made them wrote them there afterwards."""
        for queue, known in queues.items():
            self._made |= {self.names.part(queue, part): (queue, part) for part in known.parts}

    def ensure_exchanges(self, connection: Connection) -> None:
        """Raises: OSError, ServerError."""
        if self._has_exchanges:
            return
        with connection.borrowed() as channel:
            channel.exchange(self.names.due, "topic")
            channel.exchange(self.names.notices, "direct")
            channel.exchange(self.names.changes, "fanout")
            channel.gather()
        self._has_exchanges = True

    def change(self, change: Change) -> tuple[str, bytes]:
        """Where and how a change is told."""
        return self.names.changes, msgspec.msgpack.encode(change)

    # -- storing -----------------------------------------------------------------------------------------------

    def way(self, connection: Connection, channel: Channel) -> Channel:
        """The channel to publish on what is acknowledged on this one, in whose transaction it is then, or which
        confirms it first."""
        return connection.confirming if self._is_apart else channel

    def store(
        self, connection: Connection, channel: Channel, posts: Sequence[Post], acks: Sequence[int]
    ) -> None:
        """Publish, then acknowledge: as one transaction, or confirmed first. On a channel of that kind.

        Raises: OSError, ServerError: it is not known what of it has happened.
        """
        self.ensure(connection, {(one.queue, one.part) for one in posts})
        way = self.way(connection, channel)
        for one in posts:
            self._publish(connection, way, one)
        if way.confirms:
            way.wait_confirmed()
            self._repeat(connection, way)
        self._ack(channel, acks)
        if not self.transactions:
            connection.flush()
        elif acks or (posts and not way.confirms):
            channel.commit()
            channel.gather()
            self._repeat(connection, channel)

    @staticmethod
    def _ack(channel: Channel, acks: Sequence[int]) -> None:
        for tag in acks:
            channel.ack(tag)

    def _repeat(self, connection: Connection, channel: Channel) -> None:
        """What has come back, because somebody has deleted its queue, is sent again when that is there again."""
        while channel.returned:
            lost, channel.returned = channel.returned, []
            parts = {self._made.pop(message.key, None) for message in lost}
            self.ensure(connection, {which for which in parts if which is not None})
            for message in lost:
                self.publish(channel, message.exchange, message.key, message.body)
            if self.transactions and not channel.confirms:
                channel.commit()
                channel.gather()
            else:
                channel.wait_confirmed()

    def send(self, connection: Connection, posts: Sequence[Post]) -> None:
        """Publish and wait until all of it is confirmed. Raises: OSError, ServerError."""
        self.ensure(connection, {(one.queue, one.part) for one in posts})
        channel = connection.confirming
        channel.returned.clear()
        for one in posts:
            self._publish(connection, channel, one)
        channel.wait_confirmed()
        self._repeat(connection, channel)

    def _publish(self, connection: Connection, channel: Channel, one: Post) -> None:
        name = self.names.part(one.queue, one.part)
        if one.due_at is None or one.due_at <= clock.now():
            self.publish(channel, "", name, one.body)
            return
        self.ensure_chain(connection)
        wait = max(0.0, one.due_at - clock.now())
        body = one.body
        if wait > _LONGEST:
            envelope, data = unwrap(body)
            body = wrap(data, msgspec.structs.replace(envelope, due_at=one.due_at))
        units = max(1, math.ceil(min(wait, _LONGEST) * 1000 / _UNIT))
        key = f"{'.'.join(format(units, f'0{LEVELS}b'))}.{word(name)}"
        self.publish(channel, self._level(units.bit_length() - 1), f"{word(self.names.due)}.{key}", body)

    def publish(self, channel: Channel, exchange: str, key: str, body: bytes) -> None:
        """Publish a message. On classic queues, a transient one that has not died is not persistent."""
        persistent = True
        if self.kind == "classic":
            envelope, data = unwrap(body)
            persistent = bool(envelope.reason) or not is_transient(data)
        channel.publish(exchange, key, body, persistent=persistent)

    # -- the chain ---------------------------------------------------------------------------------------------

    def _level(self, level: int) -> str:
        """The name of an exchange of the chain, and of the queue behind it."""
        return f"celeriac~delay~{self.kind}~{level}"

    def ensure_chain(self, connection: Connection) -> None:
        """Queues that keep a message for 1, 2, 4, ... units each, one behind the other.

        The key of a message is: the word of its prefix, the bits of its delay, the highest first, and the word of its
        queue. An exchange gives what has its bit set to its queue, and all else to the exchange below it.
        """
        if self._has_chain:
            return
        arguments: dict[str, Value] = {"x-queue-type": self.kind}
        if self.kind == "quorum":
            arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        with connection.borrowed() as channel:
            out = f"celeriac~delay~{self.kind}~out"
            for name in (out, *map(self._level, range(LEVELS))):
                channel.exchange(name, "topic")
            for level in range(LEVELS):
                name, below = self._level(level), self._level(level - 1) if level else out
                way: dict[str, Value] = {"x-message-ttl": _UNIT << level, "x-dead-letter-exchange": below}
                channel.declare(name, {**arguments, **way})
                above = "*." * (LEVELS - level)
                channel.bind(name, name, f"{above}1.#")
                channel.bind_exchange(below, name, f"{above}0.#")
            channel.bind_exchange(self.names.due, out, f"{word(self.names.due)}.#")
            channel.gather()
        self._has_chain = True
