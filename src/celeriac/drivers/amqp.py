"""A lean connection to a RabbitMQ server: AMQP 0-9-1 over a socket, with several channels and no thread of its own.

Libraries wait for each confirmation before they publish the next message, or bring an event loop
(docs/design/0009-rabbitmq.md). Here methods are posted, sent in one piece, and their answers gathered.

Errors leave this module as OSError, where the connection is of no use any more, and `ServerError`.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Final

from celeriac import clock, native
from celeriac.drivers import amqp_wire as wire
from celeriac.drivers import pool
from celeriac.drivers.alarm import Alarm
from celeriac.drivers.amqp_address import Address, ServerError
from celeriac.drivers.amqp_wire import Message, Method, Value, long, short, table
from celeriac.drivers.dialing import closed_on_error

#: The longest frame that we ask for (bytes), and the most messages that one consumer is given before it acknowledges.
_FRAME_MAX: Final = 131072
MOST_UNACKED: Final = 65_535
#: So many bytes wait to be sent before they are.
_FLUSH_AT: Final = 262_144
#: The numbers of channels go up to this and begin again.
_CHANNELS: Final = 1_000


class Channel:
    """One channel of a connection: methods that are answered in their order, confirmations, and deliveries."""

    def __init__(self, connection: Connection, number: int) -> None:
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

    def publish(self, exchange: str, key: str, body: bytes, *, persistent: bool = True) -> None:
        """Send a message, soon; one that reaches no queue comes back (`returned`) if it is persistent."""
        if self.confirms:
            self._published += 1
            self._unconfirmed[self._published] = None
        self._connection.write(
            wire.publication(
                self.number, exchange, key, body,
                persistent=persistent, mandatory=persistent, most=self._connection.frame_max,
            )
        )  # fmt: skip

    def wait_confirmed(self) -> None:
        """Until all that was published is confirmed. Raises: ServerError: some was refused; OSError."""
        self._connection.wait(lambda: not self._unconfirmed, self)
        if self._refused:
            count, self._refused = self._refused, 0
            raise ServerError(f"the server could not store {count} messages", "506")

    def close(self) -> None:
        """What was delivered and not acknowledged goes back. Waits for the answer. Raises: OSError."""
        if self.error is None and not self.is_closed:
            self.send(wire.CHANNEL_CLOSE, struct.pack(">H", 200) + short("") + b"\0\0\0\0")
            self._connection.wait(lambda: self.is_closed or self.error is not None, None)

    # -- what comes ----------------------------------------------------------------------------------------

    def come(self, number: Method, rest: bytes) -> None:
        """Note a method of the server's."""
        if number in (wire.ACK, wire.NACK):
            self._note_confirmation(number, *struct.unpack_from(">QB", rest))
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


class Connection:
    """One connection. Not safe for several threads at once: its holder locks."""

    def __init__(self, address: Address, timeout: float, heartbeat: int = 0) -> None:
        """Connect and log in within `timeout` seconds. `heartbeat`: seconds between two signs of life, which are given
        while the connection is used; 0 is none. Raises: OSError, ServerError."""
        self.pid = os.getpid()
        self.frame_max = _FRAME_MAX
        #: Seconds that an answer may take.
        self.timeout = timeout
        self._reader = wire.Reader()
        self._out: list[bytes] = []
        self._size = 0
        self._channels: dict[int, Channel] = {}
        self._last = 0
        self._answers: deque[tuple[Method, bytes]] = deque()
        #: The content that is coming: its channel, method and arguments; its size; its parts.
        self._coming: tuple[int, Method, bytes] | None = None
        self._missing = 0
        self._parts: list[bytes] = []
        #: Why the server reads nothing that is published; None: it does.
        self.blocked: str | None = None
        self._error: ServerError | None = None
        self._beat_at = 0.0
        self._heartbeat = 0
        #: A channel for whoever uses the connection for a moment; see `confirming`.
        self._confirming: Channel | None = None
        self._sock = address.dial(min(timeout, address.connect_timeout))
        with closed_on_error(self._sock):
            self._sock.settimeout(max(0.001, timeout))
            self._log_in(
                address, heartbeat if address.heartbeat is None else min(heartbeat, address.heartbeat)
            )

    def _log_in(self, address: Address, heartbeat: int) -> None:
        self._out.append(wire.PROTOCOL)
        self._expect(wire.START)
        able = {
            "consumer_cancel_notify": True,
            "connection.blocked": True,
            "authentication_failure_close": True,
        }
        properties = table({"product": "celeriac", "capabilities": able})
        secret = f"\0{address.username}\0{address.password}".encode()
        arguments = properties + short("PLAIN") + long(secret) + short("en_US")
        self.write(wire.method(0, wire.START_OK, arguments))
        asked, frame_max, _ = struct.unpack_from(">HIH", self._expect(wire.TUNE))
        self.frame_max = min(frame_max or _FRAME_MAX, _FRAME_MAX)
        self._heartbeat = heartbeat
        self.write(wire.method(0, wire.TUNE_OK, struct.pack(">HIH", asked, self.frame_max, heartbeat)))
        self.write(wire.method(0, wire.OPEN, short(address.vhost) + b"\0\0"))
        self._expect(wire.OPEN_OK)

    def _expect(self, number: Method) -> bytes:
        self.wait(lambda: bool(self._answers), None)
        found, rest = self._answers.popleft()
        if found != number:
            raise ConnectionError(f"the server sent method {found} where {number} is due")
        return rest

    # -- for its holder --------------------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        """Idempotent. The server gives back what was held here, as after a process's death, which it need not log."""
        if self.pid == os.getpid() and self._sock.fileno() >= 0 and self._error is None:
            farewell = struct.pack(">H", 200) + short("") + b"\0\0\0\0"
            with contextlib.suppress(OSError):
                self._sock.settimeout(0.0)
                self._sock.sendall(wire.method(0, wire.CLOSE, farewell))
        self._sock.close()

    def set_timeout(self, timeout: float) -> None:
        """Seconds that an answer may take from now on."""
        self.timeout = max(0.001, timeout)

    def is_closed(self) -> bool:
        """Whether the server has closed it while it was idle. Heartbeats are read on the way."""
        if self.pid != os.getpid():
            return False  # what there is to read is for the process that opened it
        try:
            self.gather()
        except (OSError, ServerError):
            return True
        return False

    def channel(self) -> Channel:
        """A new channel, whose opening is on its way."""
        number = self._last % _CHANNELS + 1
        while number in self._channels:
            number = number % _CHANNELS + 1
        self._last = number
        channel = self._channels[number] = Channel(self, number)
        channel.post(wire.CHANNEL_OPEN, b"\0")
        return channel

    @contextlib.contextmanager
    def borrowed(self) -> Generator[Channel]:
        """A channel for a while. What it holds at the end goes back."""
        channel = self.channel()
        try:
            yield channel
        finally:
            with contextlib.suppress(OSError, ServerError):
                channel.close()

    @property
    def confirming(self) -> Channel:
        """A channel that stays, on which what is published is confirmed."""
        channel = self._confirming
        if channel is None or channel.error is not None:
            channel = self._confirming = self.channel()
            channel.select_confirms()
        return channel

    def forget(self, channel: Channel) -> None:
        """The channel is closed on both sides."""
        self._channels.pop(channel.number, None)

    def write(self, data: bytes) -> None:
        """Send it, soon."""
        self._out.append(data)
        self._size += len(data)
        if self._size >= _FLUSH_AT:
            self.flush()
            self.gather()

    def flush(self) -> None:
        """Raises: OSError."""
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._size = 0
            self._sock.settimeout(self.timeout)
            try:
                self._sock.sendall(data)
            except TimeoutError:
                # Part of it may be on its way: nothing can follow.
                self._sock.close()
                raise TimeoutError(self._why("the server reads nothing")) from None

    def rest(self) -> float:
        """Seconds from one sign of life to the next; an hour, where none are asked for."""
        return self._heartbeat / 2 if self._heartbeat else 3600.0

    def beat(self) -> None:
        """Give a sign of life, if it is time to. Raises: OSError."""
        now = clock.monotonic()
        if self._heartbeat and now >= self._beat_at:
            self._beat_at = now + self._heartbeat / 2
            self._out.append(wire.HEARTBEAT)
            self.flush()

    def wait(self, condition: Callable[[], bool], channel: Channel | None) -> None:
        """Send what is to be sent, and read until the condition holds. Raises: OSError, ServerError."""
        self.flush()
        deadline = clock.monotonic() + self.timeout
        while not condition():
            if self._error is not None:
                raise self._error
            if channel is not None and channel.error is not None:
                raise channel.error
            remaining = deadline - clock.monotonic()
            if remaining <= 0:
                raise TimeoutError(self._why("the server did not answer in time"))
            if self.read(remaining):
                self.beat()
        self.flush()

    def read(self, timeout: float) -> bool:
        """Read what there is, waiting at most `timeout` seconds for the first of it. False: nothing came."""
        pause = timeout if not self._heartbeat else min(timeout, self._heartbeat / 2)
        if not self._is_read_ahead():
            self._sock.settimeout(max(0.001, pause))
        try:
            data = self._sock.recv(262144)
        except TimeoutError:
            if pause < timeout:
                self.beat()
            return False
        self._fill(data)
        return True

    def _why(self, text: str) -> str:
        return f"{text}: it is short of {self.blocked}" if self.blocked else text

    def gather(self) -> None:
        """Note what has arrived, without waiting. Raises: OSError, ServerError."""
        poller = native.poll()
        poller.register(self._sock, select.POLLIN)
        while self._is_read_ahead() or poller.poll(0):
            self._sock.settimeout(self.timeout)
            self._fill(self._sock.recv(262144))
        if self._out:
            self.flush()
        if self._error is not None:
            raise self._error

    def wait_readable(self, timeout: float, alarm: Alarm) -> bool:
        """Wait at most `timeout` seconds for something to read, or for an alarm. True: the alarm has rung.

        The only method that may run beside another thread's call.
        """
        return alarm.wait(timeout, [self])

    def _is_read_ahead(self) -> bool:
        """Whether TLS has decrypted more than was asked for: the socket would not tell of that."""
        pending: Callable[[], int] | None = getattr(self._sock, "pending", None)
        return pending is not None and pending() > 0

    # -- what comes --------------------------------------------------------------------------------------------

    def _fill(self, data: bytes) -> None:
        if not data:
            raise ConnectionResetError("the server closed the connection")
        reader = self._reader
        reader.feed(data)
        while (found := reader.next()) is not None:
            kind, number, payload = found
            if kind == 1:
                self._method(number, struct.unpack_from(">HH", payload), payload[4:])
            elif kind == 2:
                self._missing = struct.unpack_from(">Q", payload, 4)[0]
                self._parts = []
                self._end_content()
            elif kind == 3:
                self._parts.append(payload)
                self._missing -= len(payload)
                self._end_content()

    def _method(self, number: int, method: Iterable[int], rest: bytes) -> None:
        major, minor = method
        which = (major, minor)
        if which in (wire.DELIVER, wire.RETURN):
            self._coming = (number, which, rest)
        elif number:
            channel = self._channels.get(number)
            if channel is not None:
                channel.come(which, rest)
        elif which == wire.CLOSE:
            code = struct.unpack_from(">H", rest)[0]
            self._error = ServerError(wire.texts(rest, 2, 1)[0][0], str(code))
            with contextlib.suppress(OSError):
                self._sock.sendall(wire.method(0, wire.CLOSE_OK, b""))
        elif which == wire.BLOCKED:
            self.blocked = wire.texts(rest, 0, 1)[0][0].removeprefix("low on ") or "resources"
        elif which == wire.UNBLOCKED:
            self.blocked = None
        else:
            self._answers.append((which, rest))

    def _end_content(self) -> None:
        """The last part of a message has come."""
        if self._missing > 0 or self._coming is None:
            return
        number, which, rest = self._coming
        self._coming = None
        channel = self._channels.get(number)
        if channel is None:
            return
        body = b"".join(self._parts)
        if which == wire.DELIVER:
            [consumer], at = wire.texts(rest, 0, 1)
            tag = struct.unpack_from(">Q", rest, at)[0]
            channel.deliveries.append(Message(tag, body, consumer))
        else:
            [_, exchange, key], _ = wire.texts(rest, 2, 3)
            channel.returned.append(Message(0, body, "", exchange, key))


class Pool(pool.Pool[Connection]):
    """Connections of one process, for verbs that take a moment. See `celeriac.drivers.pool`.

    With heartbeats the server hangs up on those that are idle for twice as long, and is soon rid of what the process
    held by one of them when its machine is gone.
    """

    def __init__(self, address: Address, heartbeat: int) -> None:
        super().__init__(lambda timeout: Connection(address, timeout, heartbeat), address.pool_limit)
