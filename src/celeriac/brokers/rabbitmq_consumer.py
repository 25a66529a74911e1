"""The consumer of the RabbitMQ broker: takes, settles, and leaves when its lease has ended."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Generator, Sequence
from typing import Final

import msgspec

from celeriac import clock
from celeriac.brokers import rabbitmq_revoking as revoking
from celeriac.brokers.contract import REVOKED, Delivery, Record, Settlement
from celeriac.brokers.rabbitmq_fates import committed, given_back, settled
from celeriac.brokers.rabbitmq_leases import NOT_FOUND, Leases
from celeriac.brokers.rabbitmq_line import Held, Line
from celeriac.brokers.rabbitmq_names import TAKEN, Envelope, unwrap, wrap
from celeriac.brokers.rabbitmq_pulse import Pulse
from celeriac.brokers.rabbitmq_routes import Post, Routes
from celeriac.drivers.alarm import Alarm
from celeriac.drivers.amqp import Connection
from celeriac.drivers.amqp_address import (
    UNBORN,
    UNBORN_PAUSE,
    UNBORN_TRIES,
    Address,
    ServerError,
    broker_errors,
)
from celeriac.drivers.amqp_nodes import connect
from celeriac.drivers.amqp_wire import Message
from celeriac.exceptions import BrokerRefused, LeaseLost

#: A look finds messages that another consumer has taken when we ask for them: so often we look again.
_LOOKS: Final = 3
#: What is due in more than this (seconds) goes through the chain of delays once more; less may be a clock's fault.
_EARLY: Final = 60.0


class RabbitConsumer:
    """See `celeriac.brokers.contract.Consumer`.

    `_lock` guards the line; one thread at a time takes, under `_taking`, and waits outside of `_lock` for the
    socket or for a byte in `_alarm`. The pulse, a thread, gives signs of life while nobody takes, and sees
    that somebody waits for the holding.
    """

    def __init__(self, address: Address, queues: Sequence[str], owner: str, lease: float) -> None:
        self._address = address
        self._routes = Routes(address)
        self._leases = Leases(self._routes)
        self._bans = revoking.Bans(self._routes)
        self._queues = list(dict.fromkeys(queues))
        self._first_owner = owner
        self._generation = 0
        self._owner = owner
        self._lease = lease
        self._heartbeat = int(min(30.0, max(1.0, lease / 3)))
        self._lock = threading.RLock()
        self._taking, self._closing = threading.Lock(), threading.Lock()
        self._line: Line | None = None
        #: A connection that waits for the end of an alarm, before there is a line.
        self._spare: Connection | None = None
        self._pid = os.getpid()
        #: Whether this owner has a lease and a holding; whether it has lost them.
        self._has_lease = self._is_lost = False
        #: The fences of what a take has returned: what else is in the holding, nobody knows of.
        self._given: set[int] = set()
        #: Those that have ended last, or never were ours. A server that was killed may give them out again.
        self._ended: deque[int] = deque(maxlen=10_000)
        #: The names of our marks in the holding; others are those of whoever waits for it.
        self._marks: set[bytes] = set()
        self._used = revoking.Used(self._routes)
        self._fence = self._turn = 0
        self._alarm = Alarm()
        self._pulse = Pulse(self)
        self._closed = self._told = False

    @property
    def owner(self) -> str:
        return self._owner

    @property
    def place(self) -> str:
        return self._address.place

    # -- the line -------------------------------------------------------------------------------------------

    def _connected(self) -> Line:
        """The line, or a new one. Under the lock. Raises: LeaseLost."""
        if self._pid != os.getpid():
            self._line = self._spare = None
            self._pid = os.getpid()
        line = self._line
        if line is not None:
            try:
                line.gather()
                line.connection.await_flow(0.0)
            except (OSError, ServerError) as exc:
                if isinstance(exc, ServerError) and exc.is_blocked:
                    raise
                # It was given up while nobody used it: for its age, or because no sign of life came.
                self._drop()
                line = None
        if line is None:
            line = self._opened()
        if line.is_lost:
            self._lose()
        line.connection.set_timeout(self._address.timeout)
        return line

    def _opened(self) -> Line:
        for _ in range(UNBORN_TRIES):
            try:
                return self._open()
            except ServerError as exc:
                if exc.code != UNBORN:
                    raise
            clock.sleep(UNBORN_PAUSE)
        return self._open()

    def _open(self) -> Line:
        if self._is_lost:
            self._lose()
        connection, self._spare = self._spare, None
        connection = connection or connect(self._address, self._address.timeout, self._heartbeat)
        try:
            connection.await_flow(0.0)
            is_new = not self._has_lease
            if is_new:
                self._leases.enter(connection, self._owner, self._lease, self._queues)
            self._line = Line(
                connection, self._routes, self._queues, self._routes.names.holding(self._owner), self._marks, is_new
            )  # fmt: skip
        except BaseException as exc:
            if isinstance(exc, ServerError) and exc.is_blocked:
                self._spare = connection
                raise
            connection.close()
            if isinstance(exc, LeaseLost) or (
                isinstance(exc, ServerError) and exc.code == NOT_FOUND and self._has_lease
            ):
                self._lose()
            raise
        self._has_lease = True
        self._pulse.start()
        return self._line

    def _drop(self) -> None:
        if self._line is not None:
            self._ended.extend(self._line.unmoved)
        for one in (self._line, self._spare):
            if one is not None:
                one.close()
        self._line = self._spare = None

    def _lose(self) -> None:
        """Somebody has ended the lease, or does: leave, so that he is given what we hold. Raises: LeaseLost."""
        self._is_lost = True
        self._drop()
        self._given.clear()
        raise LeaseLost(f"the lease of {self._owner} has ended; what it held was given to others")

    @contextlib.contextmanager
    def _conversation(self) -> Generator[Line]:
        """The line, for a few calls. Raises: LeaseLost, BrokerUnavailable, BrokerRefused."""
        with self._lock, broker_errors(self._address.place):
            if self._closed:
                raise BrokerRefused(f"the consumer {self._owner!r} is closed")
            line = self._connected()
            try:
                yield line
            except BaseException as exc:
                self._drop()
                if isinstance(exc, ServerError):
                    self._routes.forget()
                raise
            if line.is_lost:
                # What was done is done: the next call is told.
                with contextlib.suppress(LeaseLost):
                    self._lose()

    def pulse(self) -> None:
        """Read what has come, and give a sign of life: for the thread that does so while nobody else does."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            line = self._line
            if line is None or self._closed:
                return
            try:
                line.gather()
                line.connection.beat()
                if line.is_lost:
                    self._lose()
            except (OSError, ServerError, LeaseLost):
                self._drop()
            self._alarm.ring()
        finally:
            self._lock.release()

    def fileno(self) -> int:
        """What the pulse waits for; negative: nothing."""
        line = self._line
        return -1 if line is None else line.connection.fileno()

    def rest(self) -> float:
        """Seconds until the next sign of life."""
        line = self._line
        return 60.0 if line is None else line.connection.rest()

    # -- taking -----------------------------------------------------------------------------------------------

    def take(self, limit: int, timeout: float, order: Sequence[str] | None = None) -> list[Delivery]:
        deadline = clock.monotonic() + timeout
        if not self._taking.acquire(timeout=max(0.0, timeout)):
            return []
        try:
            return self._take(limit, deadline, order)
        except LeaseLost:
            self._start_over()
            raise
        finally:
            self._told = False
            self._taking.release()

    def _start_over(self) -> None:
        """Go on under another owner."""
        with self._lock:
            self._generation += 1
            self._owner = f"{self._first_owner}~{self._generation}"
            self._has_lease = self._is_lost = False
            self._marks.clear()

    def _take(self, limit: int, deadline: float, order: Sequence[str] | None) -> list[Delivery]:
        if order is None:
            self._turn += 1
            first = self._turn % len(self._queues)
            order = self._queues[first:] + self._queues[:first]
        for _ in range(_LOOKS):
            with self._conversation() as line:
                self._give_back_unknown(line)
                found = line.look(order)
                if not found:
                    self._used.forget(line.connection)
                    break
                if taken := self._draw(line, next(queue for queue in order if queue in found), found, limit):
                    return taken
        if clock.monotonic() >= deadline or self._told:
            return []
        return self._wait(limit, deadline, order)

    def _draw(self, line: Line, queue: str, found: dict[str, dict[str, int]], limit: int) -> list[Delivery]:
        """Messages of a queue in which so many are ready, by parts."""
        parts: dict[tuple[str, str], int] = {}
        count, limit = 0, min(limit, line.reach())
        for part, ready in found[queue].items():
            if count < limit:
                parts[queue, part] = limit - count
                count += ready
        line.draw(parts)
        line.await_drawn(min(count, limit))
        return self._hold(line, [queue], limit)

    def _wait(self, limit: int, deadline: float, order: Sequence[str]) -> list[Delivery]:
        """Be given what comes, until something does, or until it is time."""
        while True:
            with self._conversation() as line:
                self._give_back_unknown(line)
                # To begin to draw is to read, and so perhaps to hear of a new part or a pause.
                while line.drawing() != (wanted := self._wanted(line)):
                    # What was drawn goes back as well: where it goes on is decided anew.
                    line.end_draw(set())
                    line.draw(dict.fromkeys(sorted(wanted), min(limit, line.reach())))
                if any(line.drawn.values()):
                    line.hear_all()
                    if self._wanted(line) == wanted and (taken := self._hold(line, order, limit)):
                        return taken
                    continue
                remaining = deadline - clock.monotonic()
                if remaining <= 0 or self._told:
                    line.end_draw(set())
                    return []
                self._alarm.silence()
            if not self._told:
                line.connection.wait_readable(remaining, self._alarm)

    def _wanted(self, line: Line) -> set[tuple[str, str]]:
        """The parts of queues that a waiting take draws from."""
        return {
            (queue, part)
            for queue in self._queues if queue not in line.paused
            for part in TAKEN if part in line.parts[queue]
        }  # fmt: skip

    def _hold(self, line: Line, order: Sequence[str], limit: int) -> list[Delivery]:
        """Take what was drawn of the first queue that gave something, as much as goes together."""
        queue = next((one for one in order if any(line.drawn.get((one, part)) for part in TAKEN)), None)
        if queue is None:
            line.end_draw(set())
            return []
        batch: list[tuple[Message, Envelope, bytes]] = []
        datas: list[bytes] = []
        again: list[tuple[str, Message]] = []
        posts: list[Post] = []
        drawn = [(part, message) for part in TAKEN for message in line.drawn.get((queue, part), ())]
        for part, message in drawn:
            envelope, data = self._judged(line, queue, part, message)
            if envelope.due_at is not None and envelope.due_at > clock.now() + _EARLY:
                again.append((part, message))
                posts.append(Post(queue, part, message.body, envelope.due_at))
                continue
            envelope = msgspec.structs.replace(envelope, due_at=None)
            if len(batch) >= limit or (batch and envelope.is_suspect):
                break
            batch.append((message, envelope, wrap(data, envelope)))
            datas.append(data)
            if envelope.is_suspect:
                break
        if again:
            self._routes.store(line.connection, line.work, posts, [message.tag for _, message in again])
            for part, message in again:
                line.drawn[queue, part].remove(message)
        if not batch:
            line.end_draw(set())
            return []
        line.learn(len(batch), is_cut=len(batch) < min(limit, len(drawn) - len(again)))
        line.hold(batch)
        if line.is_lost:
            self._lose()
        deliveries = [
            Delivery(queue, data, self._owner, one.fence, len(one.crashes), one.verdict)
            for (_, one, _), data in zip(batch, datas, strict=True)
        ]
        self._used.note(line.connection, queue, _used_up(line, queue, deliveries))
        self._given.update(one.fence for one in deliveries)
        return deliveries

    def _judged(self, line: Line, queue: str, part: str, message: Message) -> tuple[Envelope, bytes]:
        """What is known of a message as its delivery begins."""
        envelope, data = unwrap(message.body)
        verdict = envelope.verdict
        until = line.revoked.get(queue, {}).get(data[1:17])
        if verdict is None and until is not None and until > clock.now():
            verdict = REVOKED
        self._fence = max(self._fence + 1, envelope.fence + 1, int(clock.now() * 1_000_000))
        own = envelope.part if part not in (TAKEN[1:]) else part
        return msgspec.structs.replace(
            envelope, fence=self._fence, queue=queue, part=own, verdict=verdict
        ), data  # fmt: skip

    def _give_back_unknown(self, line: Line) -> None:
        """What came into the holding as a connection broke, and nobody was told of. What has ended, ends again."""
        unknown = [line.held[fence] for fence in sorted(line.held) if fence not in self._given]
        if unknown:
            self._return(line, unknown)

    def _return(self, line: Line, held: Sequence[Held]) -> None:
        fresh = [one for one in held if one.envelope.fence not in self._ended]
        self._end_held(line, [given_back(one.envelope, one.data) for one in fresh], held)

    def _end_held(self, line: Line, posts: Sequence[Post], held: Sequence[Held]) -> None:
        tags = [one.tag for one in held] + line.idle_tags()
        self._routes.store(line.connection, line.work, posts, tags)
        for one in held:
            line.held.pop(one.envelope.fence, None)
            self._note_end(one.envelope.fence)

    def _note_end(self, fence: int) -> None:
        self._given.discard(fence)
        self._ended.append(fence)

    # -- settling ---------------------------------------------------------------------------------------------

    def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        if not settlements:
            return []
        refused: list[Delivery] = []
        try:
            with self._conversation() as line:
                posts: list[Post] = []
                ended: dict[int, Held] = {}
                for one in settlements:
                    held = self._held(line, one.delivery)
                    if held is None or held.envelope.fence in ended:
                        refused.append(one.delivery)
                        if held is None and one.delivery.fence in self._given:
                            # It ended as the answer to that was lost.
                            self._note_end(one.delivery.fence)
                        continue
                    ended[held.envelope.fence] = held
                    posts += settled(one, held.envelope, held.data)
                if ended:
                    self._end_held(line, posts, list(ended.values()))
        except LeaseLost:
            return [one.delivery for one in settlements]
        return refused

    def _held(self, line: Line, delivery: Delivery) -> Held | None:
        if delivery.owner != self._owner or delivery.fence not in self._given:
            return None
        return line.held.get(delivery.fence)

    def confirm(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        try:
            with self._conversation() as line:
                line.is_ours()
                return [one for one in deliveries if self._held(line, one) is None]
        except LeaseLost:
            return list(deliveries)

    def note(self, delivery: Delivery, records: Sequence[Record]) -> bool:
        raise BrokerRefused(f"{self.place} keeps no results")

    def commit(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        try:
            with self._conversation() as line:
                held = {
                    one.fence: found for one in deliveries if (found := self._held(line, one)) is not None
                }
                fresh = [one for one in held.values() if not one.envelope.committed]
                if fresh:
                    line.rewrite(fresh, [wrap(one.data, committed(one.envelope)) for one in fresh])
                return [one for one in deliveries if self._held(line, one) is None]
        except LeaseLost:
            return list(deliveries)

    def bans(self) -> list[bytes]:
        try:
            with self._conversation() as line:
                return self._bans.read(line.connection)
        except LeaseLost:
            self._start_over()
            raise

    def wake(self) -> None:
        if not self._closed:
            self._told = True
            self._alarm.ring()

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            try:
                self._end()
            finally:
                # Whoever takes, or gives signs of life, ends before the alarm does.
                self._pulse.stop()
                with self._taking:
                    self._alarm.close()

    def _end(self) -> None:
        with self._lock:
            try:
                if self._has_lease and not self._is_lost:
                    with contextlib.suppress(LeaseLost), self._conversation() as line:
                        self._leave(line)
            finally:
                self._closed = True
                self._drop()
                self._alarm.ring()

    def _leave(self, line: Line) -> None:
        """Give back what is held, in the order of taking, and end the lease."""
        if line.drawing():
            line.end_draw(set())
        self._return(line, [line.held[fence] for fence in sorted(line.held)])
        self._used.forget(line.connection)
        line.delete_holding()
        self._has_lease = False
        self._leases.leave(line.connection, self._owner)


def _used_up(line: Line, queue: str, deliveries: Sequence[Delivery]) -> list[bytes]:
    """Whose revocation the line does not have to know any more."""
    known = line.revoked.get(queue, {})
    revoked = (one for one in deliveries if one.verdict is not None and one.verdict.startswith(REVOKED))
    return [key for one in revoked if known.pop(key := one.data[1:17], None) is not None]
