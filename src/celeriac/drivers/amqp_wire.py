"""AMQP 0-9-1 in bytes: methods, contents and tables, as RabbitMQ writes and reads them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

Value = str | int | bool
Method = tuple[int, int]

#: The methods, by class and number. Each of those that are answered is answered by the next number.
START: Final = (10, 10)
START_OK: Final = (10, 11)
SECURE: Final = (10, 20)
TUNE: Final = (10, 30)
TUNE_OK: Final = (10, 31)
OPEN: Final = (10, 40)
OPEN_OK: Final = (10, 41)
CLOSE: Final = (10, 50)
CLOSE_OK: Final = (10, 51)
BLOCKED: Final = (10, 60)
UNBLOCKED: Final = (10, 61)
CHANNEL_OPEN: Final = (20, 10)
CHANNEL_CLOSE: Final = (20, 40)
CHANNEL_CLOSE_OK: Final = (20, 41)
EXCHANGE_DECLARE: Final = (40, 10)
EXCHANGE_DELETE: Final = (40, 20)
EXCHANGE_BIND: Final = (40, 30)
QUEUE_DECLARE: Final = (50, 10)
QUEUE_BIND: Final = (50, 20)
QUEUE_PURGE: Final = (50, 30)
QUEUE_DELETE: Final = (50, 40)
QOS: Final = (60, 10)
CONSUME: Final = (60, 20)
CANCEL: Final = (60, 30)
RETURN: Final = (60, 50)
DELIVER: Final = (60, 60)
GET: Final = (60, 70)
GET_OK: Final = (60, 71)
ACK: Final = (60, 80)
NACK: Final = (60, 120)
CONFIRM_SELECT: Final = (85, 10)
TX_SELECT: Final = (90, 10)
TX_COMMIT: Final = (90, 20)
TX_COMMIT_OK: Final = (90, 21)

PROTOCOL: Final = b"AMQP\0\0\x09\x01"
HEARTBEAT: Final = b"\x08\0\0\0\0\0\0\xce"
_FRAME: Final = struct.Struct(">BHI")
_METHOD: Final = struct.Struct(">HH")
_CONTENT: Final = struct.Struct(">HHQHB")


class Message(NamedTuple):
    """What was delivered, or came back because it could not be routed: then `consumer` is empty, and `tag` is 0."""

    tag: int
    body: bytes
    consumer: str = ""
    exchange: str = ""
    key: str = ""


def short(text: str) -> bytes:
    """A text of up to 255 bytes, with its length."""
    data = text.encode()
    return bytes((len(data),)) + data


def long(data: bytes) -> bytes:
    """Bytes with their length."""
    return struct.pack(">I", len(data)) + data


def table(values: Mapping[str, Value | Mapping[str, Value]]) -> bytes:
    """Names and values, as arguments of methods."""
    parts: list[bytes] = []
    for name, value in values.items():
        parts.append(short(name))
        if isinstance(value, bool):
            parts.append(b"t" + bytes((value,)))
        elif isinstance(value, int):
            parts.append(b"l" + struct.pack(">q", value))
        elif isinstance(value, str):
            parts.append(b"S" + long(value.encode()))
        else:
            parts.append(b"F" + table(value))
    return long(b"".join(parts))


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """One frame. Kinds: 1 method, 2 header of a content, 3 a part of it, 8 heartbeat."""
    return _FRAME.pack(kind, channel, len(payload)) + payload + b"\xce"


def method(channel: int, number: Method, arguments: bytes) -> bytes:
    """A method's frame."""
    return frame(1, channel, _METHOD.pack(*number) + arguments)


def publication(
    channel: int, exchange: str, key: str, body: bytes, *, persistent: bool, mandatory: bool, most: int
) -> bytes:
    """A message's frames, none longer than `most` bytes."""
    arguments = b"\0\0" + short(exchange) + short(key) + bytes((mandatory,))
    header = _CONTENT.pack(60, 0, len(body), 0x1000, 2 if persistent else 1)
    head = frame(1, channel, b"\0\x3c\0\x28" + arguments) + frame(2, channel, header)
    part = most - 8
    if len(body) <= part:
        return head + frame(3, channel, body) if body else head
    return head + b"".join(frame(3, channel, body[at : at + part]) for at in range(0, len(body), part))


def texts(data: bytes, at: int, count: int) -> tuple[list[str], int]:
    """So many short texts from there on, and where they end."""
    found: list[str] = []
    for _ in range(count):
        end = at + 1 + data[at]
        found.append(data[at + 1 : end].decode(errors="replace"))
        at = end
    return found, at


class Reader:
    """Makes frames of bytes as they come."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> None:
        if self._at:
            del self._data[: self._at]
            self._at = 0
        self._data += data

    def next(self) -> tuple[int, int, bytes] | None:
        """Kind, channel and payload of the next frame; None: it has not come in full. Raises: ConnectionError."""
        data, at = self._data, self._at
        if len(data) - at < 8:
            return None
        kind, channel, size = _FRAME.unpack_from(data, at)
        end = at + 7 + size
        if len(data) <= end:
            return None
        if data[end] != 0xCE:
            raise ConnectionError("the server sent what is not AMQP 0-9-1")
        self._at = end + 1
        return kind, channel, bytes(data[at + 7 : end])
