"""The line of a RabbitMQ consumer: one connection, by which it holds, draws and hears of changes.

One channel consumes the holding and, while a take goes on, queues: whoever is given the holding after us knows by that
that no take is under way. Another channel hears changes, in a queue of its own: what a change's sender has been told is
done is in there, before our own mark.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from celeriac import clock
from celeriac.brokers import rabbitmq_revoking as revoking
from celeriac.brokers.rabbitmq_names import TAKEN, Envelope, mark, mark_name, unwrap
from celeriac.brokers.rabbitmq_routes import Change, Routes
from celeriac.brokers.rabbitmq_seizing import new_mark, queue_arguments
from celeriac.drivers import amqp_wire as wire
from celeriac.drivers.amqp import Connection
from celeriac.drivers.amqp_channel import MOST_UNACKED, counts
from celeriac.drivers.amqp_wire import Message

_HOLDING: Final = "holding"
#: Seconds for messages that the server has counted as given to somebody to reach us from another node of a cluster: all
#: of them at most, and at least from one to the next.
_ON_THE_WAY: Final = 1.0
_LEAST_LAG: Final = 0.05
_read_change = msgspec.msgpack.Decoder(Change).decode


class Held(NamedTuple):
    """A message of the holding: the number of its delivery, what is known of it, and its bytes."""

    tag: int
    envelope: Envelope
    data: bytes


class Line:
    """See the module. Not safe for several threads at once. Its methods raise OSError and ServerError."""

    def __init__(
        self, connection: Connection, routes: Routes, queues: Sequence[str], holding: str, marks: set[bytes],
        is_new: bool,
    ) -> None:  # fmt: skip
        """`marks`: the names of the owner's marks in the holding, of this line and of those before. `is_new`: the owner
        has no holding yet. Raises: ServerError with the code 404: it has none any more."""
        self.connection = connection
        self._routes = routes
        self._holding = holding
        self._marks = marks
        #: By fence. `is_lost`: somebody waits for our holding, as our lease has ended: we must leave.
        self.held: dict[int, Held] = {}
        self.is_lost = False
        #: By queue and part: what has been given to us, and is to be taken or to go back.
        self.drawn: dict[tuple[str, str], list[Message]] = {}
        self._draws: dict[str, tuple[str, str]] = {}
        self._begun = itertools.count()
        #: What came when its consumption was over already, and goes back; and for how many seconds we wait for the next
        #: of such messages: it is longer where some have come late.
        self._late: list[int] = []
        self._lag = _LEAST_LAG if routes.is_cluster else 0.0
        self._limits: Mapping[tuple[str, str], int] = {}
        #: By queue and part: how many we gave back there. They may not be counted yet, because a quorum queue sees to
        #: that when it has time; the next consumption begins behind it.
        self._unseen: dict[tuple[str, str], int] = {}
        #: The fences of copies in the holding, if the connection breaks now, whose originals stay where they are.
        self.unmoved: list[int] = []
        #: So many messages go together, as far as we have learned.
        self._together = MOST_UNACKED
        #: Deliveries of the holding that say nothing new: marks of ours, copies.
        self._idle: list[int] = []
        self.parts: dict[str, set[str]] = {queue: set() for queue in queues}
        self.paused: set[str] = set()
        self.revoked: dict[str, dict[bytes, float]] = {}
        self._mark = b""
        self.news = connection.channel()
        self.work = connection.channel()
        self._hear()
        self._hold(is_new)

    def _hear(self) -> None:
        routes = self._routes
        routes.ensure_exchanges(self.connection)
        self.news.declare("", {}, exclusive=True)
        [self._ear], _ = wire.texts(self.news.gather()[-1], 0, 1)
        self.news.bind(self._ear, routes.names.changes, "")
        self.news.consume(self._ear, "news", 0, no_ack=True)
        self.news.gather()
        queues = routes.queues.read(self.connection)
        routes.learn(queues)
        for queue, known in queues.items():
            if queue in self.parts:
                self.parts[queue].update(known.parts)
                if known.paused:
                    self.paused.add(queue)
                rows = revoking.read(routes, self.connection, queue, known)
                self.revoked[queue] = {one.key: one.until for one in rows}

    def _hold(self, is_new: bool) -> None:
        """Have the holding, with all that is in it."""
        if self._routes.transactions:
            self.work.select_transactions()
        else:
            self.work.select_confirms()
        if is_new:
            self.work.declare(self._holding, queue_arguments(self._routes.kind, single=True))
        self.work.consume(self._holding, _HOLDING, MOST_UNACKED)
        self._mark = new_mark()
        self._marks.add(self._mark)
        self.work.publish("", self._holding, mark(self._mark))
        self._end_step()
        self._await_mark()
        for tag in self.idle_tags():
            self.work.ack(tag)
        self._end_step()

    def _end_step(self) -> None:
        if self._routes.transactions:
            self.work.commit()
            self.work.gather()
        else:
            self.work.gather()
            self.work.wait_confirmed()

    def _await_mark(self) -> None:
        def has_come() -> bool:
            self.sort()
            return not self._mark or self.is_lost

        self.connection.wait(has_come, self.work)

    def close(self) -> None:
        """What is held stays in the holding, what was drawn goes back. Idempotent."""
        self.connection.close()

    # -- what comes --------------------------------------------------------------------------------------------

    def gather(self) -> None:
        """Note what has arrived."""
        self.connection.gather()
        for channel in (self.work, self.news):
            if channel.error is not None:
                raise channel.error
        self.sort()
        self._return_late()

    def _return_late(self) -> None:
        """A node of a cluster is told by another that what it has for us is ours no more."""
        while self._late:
            late, self._late = self._late, []
            for tag in late:
                self.work.nack(tag)
            if self._routes.transactions:
                self.work.commit()
                self.work.gather()
            self.connection.flush()
            self.sort()

    def sort(self) -> None:
        """Put what has arrived in its place."""
        deliveries = self.work.deliveries
        while deliveries:
            message = deliveries.popleft()
            if message.consumer == _HOLDING:
                self._note_held(message)
            elif message.consumer in self._draws:
                self.drawn.setdefault(self._draws[message.consumer], []).append(message)
            else:
                self._late.append(message.tag)
                self._lag = min(_ON_THE_WAY, max(_LEAST_LAG, 2 * self._lag))
        if _HOLDING in self.work.cancelled:
            self.is_lost = True
        while self.news.deliveries:
            body = self.news.deliveries.popleft().body
            if (name := mark_name(body)) is None:
                self._note_change(_read_change(body))
            elif name == self._mark:
                self._mark = b""

    def _note_held(self, message: Message) -> None:
        name = mark_name(message.body)
        if name is None:
            envelope, data = unwrap(message.body)
            copy = self.held.get(envelope.fence)
            if copy is not None:
                self._idle.append(copy.tag)
            self.held[envelope.fence] = Held(message.tag, envelope, data)
        elif name in self._marks:
            self._idle.append(message.tag)
            if name == self._mark:
                self._mark = b""
        else:
            self.is_lost = True

    def _note_change(self, change: Change) -> None:
        queue = change.queue
        if queue not in self.parts:
            return
        if change.part is not None:
            self.parts[queue].add(change.part)
        if change.paused is not None:
            (self.paused.add if change.paused else self.paused.discard)(queue)
        if change.is_gone:
            self.parts[queue].clear()
            self.paused.discard(queue)
        self.revoked.setdefault(queue, {}).update(change.revoked)
        for key in change.forgotten:
            self.revoked[queue].pop(key, None)

    # -- drawing -----------------------------------------------------------------------------------------------

    def look(self, queues: Sequence[str]) -> dict[str, dict[str, int]]:
        """How many messages are ready in each part of these queues that has any, or may be ready: what we gave back may
        be another's by now. All changes that were told of before are known then."""
        asked = [(queue, part) for queue in queues for part in TAKEN if part in self.parts[queue]]
        self.sync_news()
        answers = self._ask(asked)
        self._await_mark()
        found: dict[str, dict[str, int]] = {}
        for (queue, part), answer in zip(asked, answers, strict=True):
            if ready := max(counts(answer)[0], self._unseen.get((queue, part), 0)):
                found.setdefault(queue, {})[part] = ready
        return {queue: parts for queue, parts in found.items() if queue not in self.paused}

    def _ask(self, parts: Iterable[tuple[str, str]]) -> list[bytes]:
        for queue, part in parts:
            self.work.declare(self._routes.names.part(queue, part), queue_arguments(self._routes.kind))
        return self.work.gather()

    def sync_news(self) -> None:
        """Begin to wait for all changes that were told of before now."""
        self._mark = new_mark()
        self.news.publish("", self._ear, mark(self._mark), persistent=False, mandatory=False)

    def hear_all(self) -> None:
        """Wait until all changes that were told of before now are known."""
        self.sync_news()
        self._await_mark()

    def draw(self, parts: Mapping[tuple[str, str], int]) -> None:
        """Be given messages of these parts of queues, so many at most of each, until `end_draw`."""
        self._limits = parts
        for which, limit in parts.items():
            tag = f"{next(self._begun)}"
            self._draws[tag] = which
            self.work.consume(self._routes.names.part(*which), tag, limit)
        self.work.gather()
        for which in parts:
            self._unseen.pop(which, None)
        self.sort()

    def reach(self) -> int:
        """How many messages are worth drawing. What we gave back is drawn again in one piece, or its order is lost."""
        return max([self._together, *self._unseen.values()])

    def learn(self, count: int, *, is_cut: bool) -> None:
        """So many of what was drawn went together. `is_cut`: it would have been more but for a suspect among them."""
        self._together = count if is_cut else min(2 * self._together, MOST_UNACKED)

    def drawing(self) -> set[tuple[str, str]]:
        """The parts of queues that are drawn from."""
        return set(self._draws.values())

    def await_drawn(self, count: int) -> None:
        """Wait until so many were given, or all that there are: others may have been given some of these.

        A consumption is confirmed before its first messages come. But a queue that answers how many it has left has
        sent ours, and the channel that answers then has passed them on, if both are of one node. In a cluster they may
        come later.
        """
        until = clock.monotonic() + _ON_THE_WAY
        while self._lacks(count) and clock.monotonic() < until:
            left = self._ask(self._draws.values())
            self.work.sync()
            self.work.gather()
            self.sort()
            if not any(map(self._is_owed, self._draws.values(), left)):
                break
        while self._lag and self._lacks(count) and clock.monotonic() < until:
            if not self.connection.read(self._lag):
                return
            self.sort()

    def _lacks(self, count: int) -> bool:
        """Whether less than that was given to us."""
        return sum(map(len, self.drawn.values())) < count

    def _is_owed(self, which: tuple[str, str], answer: bytes) -> bool:
        """Whether a part has more for us than has come."""
        return counts(answer)[0] > 0 and len(self.drawn.get(which, ())) < self._limits[which]

    def hold(self, batch: Sequence[tuple[Message, Envelope, bytes]]) -> None:
        """Move what was drawn into the holding, and give back the rest. `batch`: with the bodies for the holding."""
        fences = [envelope.fence for _, envelope, _ in batch]
        way = self._routes.way(self.connection, self.work)
        if way.confirms:
            self.unmoved = fences
        for _, _, body in batch:
            self._routes.publish(way, "", self._holding, body)
        taken = {message.tag for message, _, _ in batch}
        if way.confirms:
            way.wait_confirmed()
        if self._routes.transactions:
            self.unmoved = []
            for tag in taken:
                self.work.ack(tag)
            self.end_draw(taken, [*taken, *self._idle])
        else:
            self.end_draw(taken, [])
            self.unmoved = []
            for tag in (*taken, *self._idle):
                self.work.ack(tag)
        self._idle.clear()

        def have_come() -> bool:
            self.sort()
            return self.is_lost or all(fence in self.held for fence in fences)

        self.connection.wait(have_come, self.work)

    def end_draw(self, taken: set[int], acks: Sequence[int] = ()) -> None:
        """Be given nothing more, and give back what was not taken; with a transaction, end that with these acks."""
        if not self._draws and not acks:
            return
        for consumer in self._draws:
            self.work.cancel(consumer)
        transactions = self._routes.transactions
        for tag in acks:
            if tag not in taken:
                self.work.ack(tag)
        self._give_back(taken)
        if transactions:
            self.work.commit()
        self.work.gather()
        self.sort()
        if any(self.drawn.values()):
            self._give_back(taken)
            if transactions:
                self.work.commit()
                self.work.gather()
        self._draws.clear()
        self.drawn.clear()

    def _give_back(self, taken: set[int]) -> None:
        for which, messages in self.drawn.items():
            for message in messages:
                if message.tag not in taken:
                    self.work.nack(message.tag)
                    self._unseen[which] = self._unseen.get(which, 0) + 1
            messages.clear()

    # -- settling ----------------------------------------------------------------------------------------------

    def idle_tags(self) -> list[int]:
        """What is to be acknowledged with the next step, as it says nothing."""
        found, self._idle = self._idle, []
        return found

    def rewrite(self, held: Sequence[Held], bodies: Sequence[bytes]) -> None:
        """Put others in the places of what is held, under the same fences."""
        for body in bodies:
            self._routes.publish(self.work, "", self._holding, body)
        acks = [one.tag for one in held]
        if self._routes.transactions:
            for tag in acks:
                self.work.ack(tag)
        self._end_step()
        old = {one.envelope.fence: one.tag for one in held}

        def have_come() -> bool:
            self.sort()
            return self.is_lost or all(self.held[fence].tag != tag for fence, tag in old.items())

        self.connection.wait(have_come, self.work)
        # The old ones are acknowledged already, or are now.
        self._idle = [tag for tag in self._idle if tag not in acks]
        if not self._routes.transactions:
            for tag in acks:
                self.work.ack(tag)
            self.connection.flush()

    def is_ours(self) -> None:
        """Ask the server for something, over the channel of the holding: if it answers, what was held is held."""
        self.work.sync()
        self.work.gather()
        self.sort()

    def delete_holding(self) -> None:
        """Nothing is in it any more."""
        self.work.delete(self._holding)
        self.work.gather()
