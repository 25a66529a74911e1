"""The way out: from a call and its options to a message that the broker has stored.

`Producer.call` builds a `Call` (nothing is sent), `send` and `send_many` hand calls to the broker and return when
it has stored them. Everything that leaves an application goes through here: `delay`, groups, retries, follow-ups.

It never waits longer than `broker_publish_timeout`, publish retries included, and asks no result store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import tzinfo
from typing import TYPE_CHECKING, Any, Final

import msgspec

from celeriac import clock, codecs, message, plugins, send_options
from celeriac.brokers.contract import Broker, Outgoing
from celeriac.context import COLLECTED
from celeriac.events import BUS, TaskSending, TaskSent
from celeriac.exceptions import BrokerUnavailable, ImproperlyConfigured
from celeriac.message import NO_OPTIONS, Message, Options
from celeriac.routing import DESTINATION, Router
from celeriac.setting_kinds import TRANSIENT

if TYPE_CHECKING:
    from celeriac.brokers.room import Limited

#: Messages that go to the broker in one piece when many are sent.
CHUNK: Final = 1000
#: A further try needs at least so many seconds: a broker's own tries have used up the rest.
_LEAST: Final = 0.1


class Call(msgspec.Struct, frozen=True, gc=False):
    """A message that is ready to be sent: to which queue, how urgent, and when it is due (epoch seconds).

    `others` are further queues that get a copy, where an exchange has several bound.
    """

    message: Message
    queue: str
    due_at: float | None = None
    priority: int = 0
    others: tuple[str, ...] = ()


class Producer:
    """Builds and sends the messages of one application, under its settings of this moment."""

    def __init__(self, conf: Any, open_broker: Callable[[], Broker], zone: Callable[[], tzinfo]) -> None:
        self._conf = conf
        self._open_broker = open_broker
        self._broker: Broker | Limited | None = None
        self.zone = zone
        self.version: int = conf.version
        self.router = Router(conf)
        self._accept: frozenset[str] = frozenset(conf.accept_content)
        self._max_size: int | None = conf.task_message_max_size
        self._compress_from: int = conf.task_compression_min_size
        self._timeout: float = conf.broker_publish_timeout
        self._may_retry: bool = conf.task_publish_retry
        self._policy: Mapping[str, Any] = conf.task_publish_retry_policy
        self._inherits_priority: bool = conf.task_inherit_parent_priority
        self.defaults = self.defaults_of({})

    def defaults_of(self, attributes: Mapping[str, Any], queues: Sequence[str] = ()) -> Options:
        """What every message of a task has, where settings, its own attributes and these queues say something."""
        conf = self._conf
        own = {name: value for name, value in attributes.items() if value is not None}
        serializer = own.get("serializer", conf.task_serializer)
        compression = own.get("compression", conf.task_compression)
        priority = own.get("priority", conf.task_default_priority) or 0
        _check_priority(priority)
        mode = own.get("delivery_mode")
        transient = bool(queues) and self.router.are_transient(queues) if mode is None else mode == TRANSIENT
        if serializer == "msgpack" and compression is None and not priority and not transient:
            return NO_OPTIONS
        serializer = codecs.codec_name(serializer)
        return Options(serializer=serializer, compression=compression, priority=priority, transient=transient)

    def call(
        self,
        name: str,
        args: Any,
        kwargs: Any,
        options: Mapping[str, Any],
        defaults: Options | None = None,
        task: Any = None,
    ) -> Call:
        """The call of that task with those options of `apply_async`, ready to be sent.

        Raises:
            UnknownOption, ImproperlyConfigured: see `send_options.check`.
            QueueNotFound: see `routing.route`.
        """
        given = send_options.check(options, name)
        found = self.router.options_for(name, args, kwargs, given, task)
        own = given
        if not found.keys() <= DESTINATION:
            given = send_options.check(found, name) | given
        queue, *others = self.router.queues_for(name, own, found)
        if "soft_time_limit" in given and "time_limit" in given:
            send_options.check_limits(given["soft_time_limit"], given["time_limit"], name)
        given = send_options.inherit(given, with_priority=self._inherits_priority)
        if "delivery_mode" not in given and self.router.are_transient((queue, *others)):
            given["delivery_mode"] = TRANSIENT
        resolved = send_options.resolve(given, self.defaults if defaults is None else defaults, self.zone)
        task_id = given.get("task_id")
        if task_id is None:
            key = message.new_key()
        else:
            key = message.key_of(task_id)
            if message.id_of(key) != task_id:
                resolved = msgspec.structs.replace(resolved, task_id=task_id)
        made = Message(key, name, args, kwargs, resolved)
        return Call(made, queue, resolved.eta, resolved.priority, tuple(others))

    def outgoing(self, call: Call) -> Outgoing:
        """The bytes of a call that goes to the broker by another way. Raises: see `to_one` and `written`."""
        return self.written(self.offered(to_one(call)))

    def offered(self, call: Call) -> Call:
        """The call as those who hear of it have changed it. `written` is to follow."""
        return plugins.load("celeriac.drafts:offered")(call, self.zone) if BUS.wanted(TaskSending) else call

    def written(self, call: Call) -> Outgoing:
        """The bytes of a call, which need not be sent.

        Raises:
            EncodeError: an argument does not travel.
            MessageTooLarge: more than `task_message_max_size` bytes.
        """
        data = message.encode(call.message, self._accept, self._max_size, self._compress_from)
        return Outgoing(call.queue, data, call.priority, call.due_at, call.message.options.transient)

    def send(
        self,
        call: Call,
        retry: bool | None = None,
        policy: Mapping[str, Any] | None = None,
        connection: Any = None,
    ) -> None:
        """When it returns, the broker has stored the message; over a `connection` of the application's to the same
        database, when that commits.

        Raises:
            BrokerUnavailable: not stored, or not known to be, within `broker_publish_timeout` seconds in all.
            BrokerRefused: the broker answered and refused.
            EncodeError, MessageTooLarge: see `written`.
            ImproperlyConfigured: see `Transactional.send_within`.
        """
        if (collected := COLLECTED.get()) is not None:
            if connection is not None:
                raise ImproperlyConfigured("a call that others send, or of a coroutine, takes no connection=")
            collected += copies((call,))
            return
        if BUS.wanted(TaskSending):
            call = self.offered(call)
        if connection is not None and plugins.own("celeriac.within:send")(
            self._open_broker(), [self.written(one) for one in copies((call,))], connection
        ):
            self.announce((call,))
            return
        data = message.encode(call.message, self._accept, self._max_size, self._compress_from)
        transient = call.message.options.transient
        batch: Sequence[Outgoing] = (Outgoing(call.queue, data, call.priority, call.due_at, transient),)
        if call.others:
            batch = [
                Outgoing(one.queue, data, one.priority, one.due_at, transient) for one in copies((call,))
            ]
        started = clock.monotonic()
        try:
            (self._broker or self._connect()).send(batch, self._timeout)
        except BrokerUnavailable as exc:
            if not (self._may_retry if retry is None else retry):
                raise
            self._send_again(batch, started + self._timeout, {**self._policy, **(policy or {})}, exc)
        if BUS.wanted(TaskSent):
            _announce((call,))

    def send_many(self, calls: Iterable[Call]) -> None:
        """Send calls in their order, some thousand in one piece.

        Nothing is sent unless all can be written; a broker that fails on the way leaves the earlier pieces sent.

        Raises: see `send`.
        """
        if (collected := COLLECTED.get()) is not None:
            collected += copies(calls)
            return
        if BUS.wanted(TaskSending):
            calls = map(self.offered, calls)
        is_announced = BUS.wanted(TaskSent)
        if is_announced:
            calls = list(calls)
        # Calls are written as they come: a hundred thousand of them alive at once keep the garbage collector busy.
        batch = [self.written(call) for call in copies(calls)]
        for start in range(0, len(batch), CHUNK):
            part = batch[start : start + CHUNK]
            self._send_patiently(part, self._timeout)
        if is_announced:
            _announce(calls)

    def _send_patiently(self, batch: Sequence[Outgoing], timeout: float) -> None:
        until = clock.monotonic() + timeout
        try:
            (self._broker or self._connect()).send(batch, timeout)
        except BrokerUnavailable as exc:
            if not self._may_retry:
                raise
            self._send_again(batch, until, self._policy, exc)

    def send_stored(self, batch: Sequence[Outgoing], timeout: float | None = None) -> None:
        """Send messages whose bytes are there, within so many seconds (None: `timeout`). Raises: see `send`."""
        if batch:
            self._send_patiently(batch, self.timeout if timeout is None else timeout)

    def announce(self, calls: Sequence[Call]) -> None:
        """Tell those who listen that calls were sent, where `send` did not."""
        if BUS.wanted(TaskSent):
            _announce(calls)

    @property
    def timeout(self) -> float:
        """`broker_publish_timeout`, in seconds."""
        return self._timeout

    def _connect(self) -> Broker | Limited:
        broker: Broker | Limited = self._open_broker()
        if self.router.most:
            broker = plugins.own("celeriac.brokers.room:Limited")(broker, self.router.most)
        self._broker = broker
        return broker

    def _send_again(
        self, batch: Sequence[Outgoing], until: float, policy: Mapping[str, Any], first: BrokerUnavailable
    ) -> None:
        """Try again for what is left of the time, until then (monotonic)."""
        pause = clock.seconds(policy.get("interval_start", 0))
        step = clock.seconds(policy.get("interval_step", 0.2))
        longest = clock.seconds(policy.get("interval_max", 1))
        tries: int | None = policy.get("max_retries", 3)
        error = first
        while tries is None or tries > 0:
            left = until - clock.monotonic()
            if left <= max(pause, _LEAST):
                break
            clock.sleep(pause)
            try:
                self._connect().send(batch, left - pause)
            except BrokerUnavailable as exc:
                error = exc
            else:
                return
            pause = min(longest, pause + step)
            tries = None if tries is None else tries - 1
        raise error


def copies(calls: Iterable[Call]) -> Iterator[Call]:
    """One call for each queue that gets it."""
    for call in calls:
        if call.others:
            for queue in (call.queue, *call.others):
                yield msgspec.structs.replace(call, queue=queue, others=())
        else:
            yield call


def to_one(call: Call) -> Call:
    """The call, which becomes a retry or waits for a join: one message.

    Raises: ImproperlyConfigured: several queues would get it.
    """
    if call.others:
        named = ", ".join(map(repr, (call.queue, *call.others)))
        raise ImproperlyConfigured(
            f"{call.message.task!r} goes to one queue here, and its exchange gives it to {named}: name a queue"
        )
    return call


def new_keys(count: int) -> list[bytes]:
    """Many fresh ids, which sort in the order of the list."""
    stamp = int(clock.now() * 1000).to_bytes(6, "big")
    noise = os.urandom(6 * count)
    keys: list[bytes] = []
    for place in range(count):
        # Version 7, with a counter of 12 + 12 bits behind the time (RFC 9562, 6.2, method 1), then chance.
        high, low = divmod(place, 4096)
        head = bytes((0x70 | high >> 8 & 0x0F, high & 0xFF, 0x80 | low >> 8, low & 0xFF))
        keys.append(stamp + head + noise[6 * place : 6 * place + 6])
    return keys


def _check_priority(priority: Any) -> None:
    kind = send_options.KINDS["priority"]
    if not kind.fits(priority):
        raise ImproperlyConfigured(f"the priority of a task must be {kind.expects}, not {priority!r}")


def _announce(calls: Iterable[Call]) -> None:
    for call in calls:
        BUS.emit(TaskSent(call.message.id, call.message.task, call.queue, call.message))
