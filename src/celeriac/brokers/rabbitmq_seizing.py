"""How one process at a time has all that is in a queue: registers, holdings and dead letters.

Such a queue has `x-single-active-consumer`. Whoever wants it consumes it and puts a *mark* into it. When the mark
comes, he is the active consumer, and the one before him is gone. He puts in a second mark: when that comes, he has all
that was there, also what the other one published behind the first mark. Until his channel is closed, nobody else is
given anything; then what he has not acknowledged goes back, in its order. The marks of others mean nothing to him.

A *register* is such a queue that keeps one value, as its last message. It is written by publishing the new value and
then, when that is confirmed, acknowledging the old one: whoever dies between leaves both, and the last one counts.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Generator, Mapping
from functools import partial
from typing import Final, Generic, TypeVar

import msgspec

from celeriac import clock
from celeriac.brokers.rabbitmq_names import mark, mark_name
from celeriac.drivers.amqp import Connection
from celeriac.drivers.amqp_channel import MOST_UNACKED, Channel
from celeriac.drivers.amqp_wire import Message, Value

T = TypeVar("T")

#: Whoever has waited for so long (seconds) has given up: his mark is taken away.
_PATIENCE: Final = 120


def queue_arguments(kind: str, *, single: bool = False) -> dict[str, Value]:
    """How our queues are declared."""
    arguments: dict[str, Value] = {"x-queue-type": kind}
    if single:
        arguments["x-single-active-consumer"] = True
    if kind == "quorum":
        # RabbitMQ 4 gives a message up after 20 returns; every cut connection is one, and we count by ourselves.
        arguments["x-delivery-limit"] = 1_000_000_000
    return arguments


def new_mark() -> bytes:
    """A name for a mark: when it was made, and something random."""
    return struct.pack(">I", int(clock.now())) + os.urandom(8)


class Seizure:
    """What is in a queue, as long as nobody else is given it. `marks` are ours, and those of whoever has given up.

    The server gives one consumer `MOST_UNACKED` messages at most: where it `is_cut` there, more may lie behind them.
    """

    def __init__(self, channel: Channel, queue: str) -> None:
        self.channel = channel
        self.queue = queue
        self.messages: list[Message] = []
        self.marks: list[Message] = []
        self._given = 0

    @property
    def is_cut(self) -> bool:
        return self._given >= MOST_UNACKED

    def note(self, name: bytes) -> bool:
        """Sort what has come. True: with the mark of that name, or without, all of it has that is to come."""
        while self.channel.deliveries:
            message = self.channel.deliveries.popleft()
            self._given += 1
            found = mark_name(message.body)
            if found is None:
                self.messages.append(message)
            elif found == name or clock.now() - struct.unpack_from(">I", found)[0] >= _PATIENCE:
                self.marks.append(message)
            if found == name:
                return True
        return self.is_cut

    @property
    def tags(self) -> list[int]:
        """Of all that has come, for the acknowledgement."""
        return [message.tag for message in (*self.messages, *self.marks)]

    def ack(self, *, messages: bool) -> None:
        """The marks are done with, and the `messages` if it is said so. Of a transaction, the rest is the caller's."""
        for tag in self.tags if messages else [message.tag for message in self.marks]:
            self.channel.ack(tag)

    def end(self) -> None:
        """Take the marks away; the messages stay."""
        self.ack(messages=False)
        if not self.channel.confirms:
            self.channel.commit()
            self.channel.gather()


@contextlib.contextmanager
def seized(
    connection: Connection, queue: str, *, transactions: bool = False,
    declared: Mapping[str, Value] | None = None,
) -> Generator[Seizure]:  # fmt: skip
    """All that is in a queue, or the first `MOST_UNACKED` messages, until the end.

    `declared`: the queue is made so, if it is not there.

    Raises: ServerError: among others with the code 404: there is none. OSError: also where whoever has it does not
        leave it.
    """
    with connection.borrowed() as channel:
        if transactions:
            channel.select_transactions()
        else:
            channel.select_confirms()
        if declared is not None:
            channel.declare(queue, declared)
        channel.consume(queue, "seizing", MOST_UNACKED)
        seizure = Seizure(channel, queue)
        for _ in range(2):
            name = new_mark()
            channel.publish("", queue, mark(name))
            if transactions:
                channel.commit()
            channel.gather()
            connection.wait(partial(seizure.note, name), channel)
            if seizure.is_cut:
                # Whoever is given so much is the one who has the queue. The mark is behind what has not come.
                break
        yield seizure


class Register(Generic[T]):
    """A value that many processes read and write, one at a time."""

    def __init__(self, queue: str, kind: str, type: type[T], empty: T) -> None:
        self._queue = queue
        self._declared = queue_arguments(kind, single=True)
        self._empty = msgspec.msgpack.encode(empty)
        self._decode = msgspec.msgpack.Decoder(type).decode

    @contextlib.contextmanager
    def opened(self, connection: Connection) -> Generator[Draft[T]]:
        """The value, which nobody else has meanwhile; what is changed there takes its place at the end."""
        with seized(connection, self._queue, declared=self._declared) as seizure:
            last = seizure.messages[-1].body if seizure.messages else self._empty
            draft = Draft(self._decode(last))
            yield draft
            if draft.is_changed:
                seizure.channel.publish("", self._queue, msgspec.msgpack.encode(draft.value))
                for exchange, body in draft.told:
                    seizure.channel.publish(exchange, "", body, persistent=False, mandatory=False)
                seizure.channel.wait_confirmed()
                seizure.ack(messages=True)
            else:
                seizure.end()

    def read(self, connection: Connection) -> T:
        """The value as it was a moment ago."""
        with self.opened(connection) as draft:
            return draft.value


class Draft(Generic[T]):
    """A register's value, written if `is_changed`. `told` is published with it: exchanges, and what they are told."""

    def __init__(self, value: T) -> None:
        self.value = value
        self.is_changed = False
        self.told: list[tuple[str, bytes]] = []
