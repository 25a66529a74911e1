"""The least of AMQP 0-9-1 that `rabbitmq_broker.py` needs: one socket, one channel, frames read and written by hand."""

from __future__ import annotations

import socket
import struct
import urllib.parse
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

#: The methods, by class and number.
START, TUNE, OPEN_OK, CLOSE = (10, 10), (10, 30), (10, 41), (10, 50)
CHANNEL_OPEN_OK, CHANNEL_CLOSE = (20, 11), (20, 40)
RETURN, DELIVER, GET_OK, GET_EMPTY, ACK, NACK = (60, 50), (60, 60), (60, 71), (60, 72), (60, 80), (60, 120)

Value = str | int | bool


class Refused(Exception):
    """The server closed the channel or the connection, and said why."""


class Message(NamedTuple):
    """What was delivered: the number to acknowledge it by, whether it came before, its bytes and whose it is."""

    tag: int
    redelivered: bool
    body: bytes
    consumer: str = ""


def short(text: str) -> bytes:
    data = text.encode()
    return bytes((len(data),)) + data


def table(values: Mapping[str, Value]) -> bytes:
    parts: list[bytes] = []
    for name, value in values.items():
        parts.append(short(name))
        if isinstance(value, bool):
            parts.append(b"t" + bytes((value,)))
        elif isinstance(value, int):
            parts.append(b"l" + struct.pack(">q", value))
        else:
            parts.append(b"S" + struct.pack(">I", len(value)) + value.encode())
    data = b"".join(parts)
    return struct.pack(">I", len(data)) + data


class Amqp:
    """One connection with one channel. What is sent is gathered until `flush` or until an answer is waited for."""

    def __init__(self, url: str, heartbeat: int = 0) -> None:
        where = urllib.parse.urlsplit(url)
        self._socket = socket.create_connection((where.hostname or "127.0.0.1", where.port or 5672), 10.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(60.0)
        self._in = bytearray()
        self._out: list[bytes] = []
        self.messages: deque[Message] = deque()
        self.returned: list[bytes] = []
        #: How many publications are confirmed, and how many were refused, since `confirm_select`.
        self.confirmed = 0
        self.refused = 0
        self._socket.sendall(b"AMQP\0\0\x09\x01")
        self.wait(START)
        secret = f"\0{where.username or 'guest'}\0{where.password or 'guest'}".encode()
        able = table({"consumer_cancel_notify": True, "connection.blocked": True})
        properties = short("capabilities") + b"F" + able
        response = struct.pack(">I", len(secret)) + secret
        self._send(
            0,
            (10, 11),
            struct.pack(">I", len(properties)) + properties + short("PLAIN") + response + short("en_US"),
        )
        self.wait(TUNE)
        self._send(0, (10, 31), struct.pack(">HIH", 1, 131072, heartbeat))
        vhost = urllib.parse.unquote(where.path[1:]) or "/"
        self._send(0, (10, 40), short(vhost) + b"\0\0")
        self.wait(OPEN_OK)
        self._send(1, (20, 10), b"\0")
        self.wait(CHANNEL_OPEN_OK)

    def close(self) -> None:
        """Without a word: the server does what it does when a process dies."""
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    # -- verbs that are answered -------------------------------------------------------------------------------

    def declare(self, queue: str, *, passive: bool = False, **arguments: Value) -> tuple[int, int]:
        """Returns how many messages are ready in the queue, and how many consumers it has."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        answer = self.call((50, 10), b"\0\0" + short(queue) + bytes((passive | 2,)) + table(named))
        ready, consumers = struct.unpack_from(">II", answer, len(short(queue)))
        return ready, consumers

    def delete(self, queue: str) -> None:
        self.call((50, 40), b"\0\0" + short(queue) + b"\0")

    def exchange(self, name: str, kind: str) -> None:
        self.call((40, 10), b"\0\0" + short(name) + short(kind) + b"\x02" + table({}))

    def delete_exchange(self, name: str) -> None:
        self.call((40, 20), b"\0\0" + short(name) + b"\0")

    def bind(self, queue: str, exchange: str, key: str) -> None:
        self.call((50, 20), b"\0\0" + short(queue) + short(exchange) + short(key) + b"\0" + table({}))

    def bind_exchange(self, target: str, source: str, key: str) -> None:
        self.call((40, 30), b"\0\0" + short(target) + short(source) + short(key) + b"\0" + table({}))

    def prefetch(self, count: int) -> None:
        """At most so many unacknowledged deliveries for each consumer that is made from now on."""
        self.call((60, 10), struct.pack(">IHB", 0, count, 0))

    def consume(self, queue: str, *, exclusive: bool = False, tag: str = "c") -> None:
        self.call((60, 20), b"\0\0" + short(queue) + short(tag) + bytes((exclusive << 2,)) + table({}))

    def confirm_select(self) -> None:
        self.call((85, 10), b"\0")

    def tx_select(self) -> None:
        self.call((90, 10), b"")

    def commit(self) -> None:
        self.call((90, 20), b"")

    def call(self, method: tuple[int, int], arguments: bytes) -> bytes:
        """Send a method and wait for its answer, whose number is the next one."""
        self._send(1, method, arguments)
        return self.wait((method[0], method[1] + 1))

    # -- verbs that are not -------------------------------------------------------------------------------------

    def publish(self, exchange: str, key: str, body: bytes, mandatory: bool = False) -> None:
        """A persistent message."""
        method = struct.pack(">HHH", 60, 40, 0) + short(exchange) + short(key) + bytes((mandatory,))
        header = struct.pack(">HHQHB", 60, 0, len(body), 0x1000, 2)
        self._out.append(
            struct.pack(">BHI", 1, 1, len(method)) + method + b"\xce"
            + struct.pack(">BHI", 2, 1, len(header)) + header + b"\xce"
            + struct.pack(">BHI", 3, 1, len(body)) + body + b"\xce"
        )  # fmt: skip

    def ack(self, tag: int, multiple: bool = False) -> None:
        self._send(1, ACK, struct.pack(">QB", tag, multiple))

    def nack(self, tag: int, multiple: bool = False) -> None:
        """Give it back to the queue."""
        self._send(1, NACK, struct.pack(">QB", tag, multiple | 2))

    def get(self, queue: str) -> None:
        """Ask for one message: `GET_OK` or `GET_EMPTY` comes."""
        self._send(1, (60, 70), b"\0\0" + short(queue) + b"\0")

    def _send(self, channel: int, method: tuple[int, int], arguments: bytes) -> None:
        payload = struct.pack(">HH", *method) + arguments
        self._out.append(struct.pack(">BHI", 1, channel, len(payload)) + payload + b"\xce")

    def flush(self) -> None:
        if self._out:
            self._socket.sendall(b"".join(self._out))
            self._out.clear()

    # -- what comes ---------------------------------------------------------------------------------------------

    def wait(self, *expected: tuple[int, int]) -> bytes:
        """Read until one of these methods has come. Returns what follows its number."""
        while True:
            method, rest = self._next()
            if method in expected:
                return rest

    def wait_messages(self, count: int) -> list[Message]:
        """So many deliveries, in order."""
        self.flush()
        while len(self.messages) < count:
            self._next()
        return [self.messages.popleft() for _ in range(count)]

    def wait_messages_of(self, consumer: str, count: int) -> list[Message]:
        """So many deliveries to one consumer of several, in order."""
        self.flush()
        while sum(message.consumer == consumer for message in self.messages) < count:
            self._next()
        found = [message for message in self.messages if message.consumer == consumer][:count]
        for message in found:
            self.messages.remove(message)
        return found

    def wait_confirmed(self, count: int) -> None:
        """Until so many publications in all are confirmed."""
        self.flush()
        while self.confirmed < count:
            self._next()

    def _next(self) -> tuple[tuple[int, int], bytes]:
        """The next method, with its content put where it belongs. Raises: Refused, OSError."""
        self.flush()
        kind, payload = self._frame()
        while kind != 1:  # a heartbeat
            kind, payload = self._frame()
        method = struct.unpack_from(">HH", payload)
        rest = payload[4:]
        if method in (CLOSE, CHANNEL_CLOSE):
            # What a closed channel held goes back to its queues when this answer has come.
            self._send(method == CHANNEL_CLOSE, (method[0], method[1] + 1), b"")
            self.flush()
            code = struct.unpack_from(">H", rest)[0]
            raise Refused(f"{code} {rest[3 : 3 + rest[2]].decode()}")
        if method == ACK:
            tag, multiple = struct.unpack_from(">QB", rest)
            # Confirmations may come out of turn; a count is enough where all of them are waited for.
            self.confirmed = max(self.confirmed, tag) if multiple else self.confirmed + 1
        elif method == NACK:
            self.refused += 1
        elif method == DELIVER:
            start = 1 + rest[0]
            tag, redelivered = struct.unpack_from(">QB", rest, start)
            self.messages.append(Message(tag, bool(redelivered), self._content(), rest[1:start].decode()))
        elif method == GET_OK:
            tag, redelivered = struct.unpack_from(">QB", rest)
            self.messages.append(Message(tag, bool(redelivered), self._content()))
        elif method == RETURN:
            self.returned.append(self._content())
        return (method[0], method[1]), rest

    def _content(self) -> bytes:
        _, header = self._frame()
        size = struct.unpack_from(">Q", header, 4)[0]
        body = b""
        while len(body) < size:
            body += self._frame()[1]
        return body

    def _frame(self) -> tuple[int, bytes]:
        data = self._in
        while len(data) < 7 or len(data) < (size := struct.unpack_from(">I", data, 3)[0]) + 8:
            part = self._socket.recv(262144)
            if not part:
                raise ConnectionResetError("the server closed the connection")
            data += part
        payload = bytes(data[7 : 7 + size])
        kind = data[0]
        del data[: size + 8]
        return kind, payload
