"""A lean connection to a RabbitMQ server: AMQP 0-9-1 over a socket, with several channels and no thread of its own.

Libraries wait for each confirmation before they publish the next message, or bring an event loop
(docs/design/0009-rabbitmq.md). Here methods are posted, sent in one piece, and their answers gathered.

Errors leave this module as OSError, where the connection is of no use any more, and `ServerError`.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import struct
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Final

from celeriac import clock, native
from celeriac.drivers import amqp_wire as wire
from celeriac.drivers.alarm import Alarm
from celeriac.drivers.amqp_address import BLOCKED, Address, ServerError
from celeriac.drivers.amqp_channel import Channel
from celeriac.drivers.amqp_wire import Message, Method, long, short, table
from celeriac.drivers.dialing import closed_on_error, dial

#: The longest frame that we ask for (bytes).
_FRAME_MAX: Final = 131072
#: So many bytes wait to be sent before they are.
_FLUSH_AT: Final = 262_144
#: The numbers of channels go up to this and begin again.
_CHANNELS: Final = 1_000
#: Whoever was let publish so many seconds ago still is, as far as is assumed.
_FLOWS: Final = 1.0
#: A queue that is not there, for a message that is to be read and nothing more.
_NOWHERE: Final = "celeriac.~nowhere"


class Connection:
    """One connection. Not safe for several threads at once: its holder locks."""

    def __init__(
        self, address: Address, timeout: float, heartbeat: int = 0, place: tuple[str, int] | None = None
    ) -> None:
        """Connect and log in within `timeout` seconds. `heartbeat`: seconds between two signs of life, which are given
        while the connection is used; 0 is none. `place`: one of the hosts of the address, the first if none is given.

        Raises: OSError, ServerError.
        """
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
        #: When (monotonic) it was last seen that it does.
        self._flowed_at = -math.inf
        #: When (monotonic) every wait ends; see `until`.
        self._end_at = math.inf
        self._error: ServerError | None = None
        self._beat_at = 0.0
        self._heartbeat = 0
        #: A channel for whoever uses the connection for a moment; see `confirming`.
        self._confirming: Channel | None = None
        host, port = place or address.hosts[0]
        until = clock.monotonic() + min(timeout, address.connect_timeout)
        self._sock = dial(host, port, until, address.tls)
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
        """A channel that stays while all that is published on it is confirmed."""
        channel = self._confirming
        if channel is not None and channel.has_refused:
            channel.close()
        if channel is None or channel.error is not None or channel.has_refused:
            channel = self._confirming = self.channel()
            channel.select_confirms()
        return channel

    def forget(self, channel: Channel) -> None:
        """The channel is closed on both sides."""
        self._channels.pop(channel.number, None)

    @contextlib.contextmanager
    def until(self, deadline: float) -> Generator[None]:
        """Nothing waits longer than to this monotonic deadline, however many answers there are to wait for."""
        self._end_at = deadline
        try:
            yield
        finally:
            self._end_at = math.inf

    # -- alarms ----------------------------------------------------------------------------------------------

    def note_flow(self) -> None:
        self._flowed_at = clock.monotonic()

    def await_flow(self, patience: float) -> None:
        """Wait until the server takes what is published here; for `patience` seconds, where it says that it does not.

        While it is short of memory or disk it reads nothing more from whoever publishes, and keeps what it was sent for
        the end of the alarm. So an empty message goes before what must not be left there; not, where the last one
        has just been taken.

        Raises: ServerError with the code `BLOCKED`: the connection can be used again, and asked again; OSError.
        """
        channel = self.confirming
        if self.blocked is None:
            if clock.monotonic() - self._flowed_at < _FLOWS:
                return
            if channel.is_confirmed:
                channel.publish("", _NOWHERE, b"", persistent=False, mandatory=False)
            self.wait(lambda: channel.is_confirmed or self.blocked is not None, channel)
        deadline = clock.monotonic() + patience
        self.gather()
        while self.blocked is not None:
            remaining = deadline - clock.monotonic()
            if remaining <= 0:
                raise ServerError(
                    f"the server stores nothing, because it is short of {self.blocked}", BLOCKED
                )
            if self.read(remaining):
                self.beat()
        channel.wait_confirmed()

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
            self._sock.settimeout(max(0.001, min(self.timeout, self._end_at - clock.monotonic())))
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
        deadline = min(clock.monotonic() + self.timeout, self._end_at)
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
        if which in (wire.DELIVER, wire.GET_OK, wire.RETURN):
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
        elif which == wire.GET_OK:
            channel.deliveries.append(Message(struct.unpack_from(">Q", rest)[0], body))
            channel.answers.append(rest)
        else:
            [_, exchange, key], _ = wire.texts(rest, 2, 3)
            channel.returned.append(Message(0, body, "", exchange, key))
