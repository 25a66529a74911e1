"""Messages of a RabbitMQ server on their way to another broker, and from another one. See `abilities.Movable`.

A queue's crate is a queue of its own, the part `crate`: a label, which says what it is, and its messages behind that.
The last label counts, and what lies behind it. What has arrived from elsewhere is noted in a register, the part
`arrived`: for each series the last number.

What is delayed is in a chain of queues that nobody can look into: it is packed when it is due, and then it is ready.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from celeriac import clock
from celeriac.brokers import rabbitmq_letters as letters
from celeriac.brokers.abilities import CRATE_BYTES, Crate, Parcel
from celeriac.brokers.rabbitmq_names import (
    ARRIVED,
    CRATE,
    DEAD,
    FIRST,
    TAKEN,
    Envelope,
    part_of,
    unwrap,
    wrap,
)
from celeriac.brokers.rabbitmq_routes import Post, Routes
from celeriac.brokers.rabbitmq_seizing import Seizure, queue_arguments, seized
from celeriac.drivers.amqp import Connection
from celeriac.drivers.amqp_wire import Message

#: Messages that are asked for before the answers are waited for.
_AT_ONCE: Final = 50
#: What the body of a label begins with, and that of a message of the crate.
_LABEL: Final = b"L"
_MESSAGE: Final = b"M"
_NO_NUMBERS: Final[dict[bytes, int]] = {}


class Label(msgspec.Struct, frozen=True, array_like=True):
    """What a crate says of itself. `count`: how many messages lie behind it; 0: it was discarded, or never closed."""

    series: bytes
    number: int = 0
    target: str = ""
    count: int = 0


#: Makes of bodies what is to be stored as a crate.
_Load = Callable[[Sequence[bytes]], list[Post]]

_read_label = msgspec.msgpack.Decoder(Label).decode
_read_numbers = msgspec.msgpack.Decoder(dict[bytes, int]).decode


def pack(routes: Routes, connection: Connection, queue: str, target: str, limit: int) -> Crate | None:
    """See `Movable.pack`. Whoever is killed meanwhile, on classic queues, may leave messages in queue and crate."""
    known = routes.queues.read(connection).get(queue)
    if known is None or (CRATE not in known.parts and not limit):
        return None
    routes.ensure(connection, [(queue, CRATE)])
    with _seized(routes, connection, queue, CRATE) as seizure:
        label, bodies = _contents(seizure.messages)
        if label.count or not limit:
            seizure.end()
            return _crate(queue, label, bodies) if label.count else None
        series, number = label.series, label.number + 1

        def load(bodies: Sequence[bytes]) -> list[Post]:
            new = _LABEL + msgspec.msgpack.encode(Label(series, number, target, len(bodies)))
            return [Post(queue, CRATE, new), *(Post(queue, CRATE, _MESSAGE + body) for body in bodies)]

        packing = routes, connection, queue, known.parts, limit, load
        bodies = _pack_ready(*packing) or _pack_dead(*packing)
        if not bodies:
            seizure.end()
            return None
        # What lay there before means nothing any more.
        routes.store(connection, seizure.channel, [], seizure.tags)
    return _crate(queue, Label(series, number, target), bodies)


def unpack(routes: Routes, connection: Connection, crate: Crate) -> bool:
    """See `Movable.unpack`. Whoever is killed meanwhile, on classic queues, may have stored what comes once more."""
    queue = crate.queue
    routes.ensure(connection, [(queue, ARRIVED)])
    with _seized(routes, connection, queue, ARRIVED) as seizure:
        last = _read_numbers(seizure.messages[-1].body) if seizure.messages else _NO_NUMBERS
        if last.get(crate.series, 0) >= crate.number:
            seizure.end()
            return False
        numbers = msgspec.msgpack.encode({**last, crate.series: crate.number})
        posts = [_unpacked(queue, parcel) for parcel in crate.parcels]
        routes.store(connection, seizure.channel, [*posts, Post(queue, ARRIVED, numbers)], seizure.tags)
    return True


def discard(routes: Routes, connection: Connection, crate: Crate) -> None:
    """See `Movable.discard`."""
    routes.ensure(connection, [(crate.queue, CRATE)])
    with _seized(routes, connection, crate.queue, CRATE) as seizure:
        label, _ = _contents(seizure.messages)
        if not label.count or (label.series, label.number) != (crate.series, crate.number):
            seizure.end()
            return
        empty = _LABEL + msgspec.msgpack.encode(Label(label.series, label.number))
        routes.store(connection, seizure.channel, [Post(crate.queue, CRATE, empty)], seizure.tags)


@contextmanager
def _seized(routes: Routes, connection: Connection, queue: str, part: str) -> Generator[Seizure]:
    name = routes.names.part(queue, part)
    with seized(connection, name, transactions=routes.transactions) as seizure:
        yield seizure


def _contents(messages: Sequence[Message]) -> tuple[Label, list[bytes]]:
    """The last label, and what lies behind it. Where some of that is missing, its queue has all of it: the crate was
    not closed, and has nothing."""
    label, bodies = Label(os.urandom(16)), list[bytes]()
    for message in messages:
        if message.body[:1] == _LABEL:
            label, bodies = _read_label(message.body[1:]), []
        else:
            bodies.append(message.body[1:])
    if len(bodies) < label.count:
        return Label(label.series, label.number), []
    return label, bodies


def _pack_ready(
    routes: Routes, connection: Connection, queue: str, parts: Sequence[str], limit: int, load: _Load
) -> list[bytes]:
    """Move ready messages into the crate, in the order of taking. Returns their bodies there.

    They are asked for one by one, and all that come are moved: so none has to go back, which would change their order.
    """
    tags: list[int] = []
    bodies: list[bytes] = []
    room, largest = CRATE_BYTES, 0
    with connection.borrowed() as channel:
        if routes.transactions:
            channel.select_transactions()
        else:
            channel.select_confirms()
        for part in TAKEN:
            if part not in parts:
                continue
            name = routes.names.part(queue, part)
            channel.declare(name, queue_arguments(routes.kind))
            channel.gather()
            while room > 0 and len(bodies) < limit:
                asked = min(limit - len(bodies), _AT_ONCE, max(1, room // largest)) if largest else 1
                for _ in range(asked):
                    channel.get(name)
                channel.gather()
                given = list(channel.deliveries)
                channel.deliveries.clear()
                tags += [message.tag for message in given]
                bodies += [_ready_body(queue, part, message.body) for message in given]
                room -= sum(len(message.body) for message in given)
                largest = max([largest, *(len(message.body) for message in given)])
                if len(given) < asked:
                    break
        if bodies:
            routes.store(connection, channel, load(bodies), tags)
    return bodies


def _pack_dead(
    routes: Routes, connection: Connection, queue: str, parts: Sequence[str], limit: int, load: _Load
) -> list[bytes]:
    """The same with dead letters, the oldest first."""
    if DEAD not in parts:
        return []
    with letters.opened(routes, connection, queue) as found:
        if found is None:
            return []
        chosen: list[letters.Found] = []
        room = CRATE_BYTES
        for one in found.all[:limit]:
            if room <= 0:
                break
            chosen.append(one)
            room -= len(one.letter.data)
        bodies = [_dead_body(one) for one in chosen]
        if bodies:
            found.move(chosen, load(bodies))
    return bodies


def _ready_body(queue: str, part: str, body: bytes) -> bytes:
    envelope, data = unwrap(body)
    own = envelope.part if part == FIRST else part
    return wrap(data, msgspec.structs.replace(envelope, queue=queue, part=own))


def _dead_body(found: letters.Found) -> bytes:
    return wrap(found.letter.data, msgspec.structs.replace(found.envelope, letter=found.letter.key))


def _crate(queue: str, label: Label, bodies: Sequence[bytes]) -> Crate:
    return Crate(queue, label.target, label.series, label.number, [_parcel(*unwrap(body)) for body in bodies])


def _parcel(envelope: Envelope, data: bytes) -> Parcel:
    priority = int(envelope.part or 0)
    if envelope.died_at:
        died_at, key, reason, detail = envelope.died_at, envelope.letter, envelope.reason, envelope.detail
        return Parcel(data, priority, None, None, envelope.crashes, died_at, key, reason, detail)
    is_due = envelope.due_at is None or envelope.due_at <= clock.now()
    return Parcel(data, priority, None if is_due else envelope.due_at, envelope.verdict, envelope.crashes)


def _unpacked(queue: str, parcel: Parcel) -> Post:
    """Where a message goes that comes from elsewhere. A dead letter's own name is for the case that another has its
    key."""
    part, data = part_of(parcel.priority), parcel.data
    if parcel.died_at is not None:
        name = parcel.key if parcel.key != data[1:17] else os.urandom(16)
        letter = Envelope(
            queue=queue, part=part, crashes=parcel.casualties, reason=parcel.reason, detail=parcel.detail,
            died_at=parcel.died_at, letter=name,
        )  # fmt: skip
        return Post(queue, DEAD, wrap(data, letter))
    if parcel.casualties or parcel.verdict is not None:
        suspect = Envelope(queue=queue, part=part, crashes=parcel.casualties, verdict=parcel.verdict)
        return Post(queue, FIRST, wrap(data, suspect), parcel.due_at)
    return Post(queue, part, wrap(data), parcel.due_at)
