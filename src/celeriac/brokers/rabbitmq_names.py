"""What the RabbitMQ broker calls its queues, and what it writes before the bytes of a message.

A queue of the application is several queues of the server, its *parts*, each made when it is needed first:

    Q           what waits, of priority 0
    Q~1 ... Q~9 what waits, of a higher priority
    Q~first     what goes before all others: given back, suspects, and what has a verdict
    Q~dead      its dead letters
    Q~revoked   a register (`rabbitmq_seizing`): what is remembered as revoked
    Q~crate     what is on its way to another broker (`rabbitmq_moving`)
    Q~arrived   a register: what has come from other brokers
    Q~turn      empty: who has it may send to a queue that is nearly full (`rabbitmq_room`)

Besides, for all of them together: a holding for each owner (`~held~OWNER`), the registers `~queues`, `~leases`, `~bans`
and `~broadcasts`, and the exchanges `~due`, `~notices` and `~changes`. Before every name goes the prefix of the URL.
The chain of queues for delays (`rabbitmq_routes`) is one for a virtual host.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

import msgspec

from celeriac.brokers.contract import HIGHEST_PRIORITY, Casualty

#: The parts, as they are named above; the first ones are taken from first.
FIRST: Final = "first"
DEAD: Final = "dead"
REVOKED_PART: Final = "revoked"
CRATE: Final = "crate"
ARRIVED: Final = "arrived"
TURN: Final = "turn"
PLAIN: Final = ""
#: What a consumer takes from, in this order.
TAKEN: Final = (FIRST, *(str(priority) for priority in range(HIGHEST_PRIORITY, 0, -1)), PLAIN)
#: All that a queue may be made of.
PARTS: Final = (*TAKEN, DEAD, REVOKED_PART, CRATE, ARRIVED, TURN)
#: What one process at a time has all of.
SEIZED: Final = frozenset({DEAD, REVOKED_PART, CRATE, ARRIVED, TURN})

#: The server takes names of 255 bytes; longer ones are cut, and told apart by a hash.
_LONGEST: Final = 200
_LENGTH: Final = struct.Struct(">I")
#: In the place of the envelope's length: a mark, no message. The twelve bytes behind it are its name.
_MARK: Final = b"\xff\xff\xff\xff"


class Names:
    """The names below one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.due = f"{prefix}~due"
        self.notices = f"{prefix}~notices"
        self.changes = f"{prefix}~changes"
        self.queues = f"{prefix}~queues"
        self.leases = f"{prefix}~leases"
        self.bans = f"{prefix}~bans"
        self.broadcasts = f"{prefix}~broadcasts"

    def part(self, queue: str, part: str) -> str:
        """A part of a queue."""
        return self._prefix + _short(queue.replace("~", "~~")) + (f"~{part}" if part else "")

    def holding(self, owner: str) -> str:
        """Where an owner holds its messages."""
        return f"{self._prefix}~held~" + _short(owner)


def _short(name: str) -> str:
    data = name.encode()
    if len(data) <= _LONGEST:
        return name
    return data[: _LONGEST - 40].decode(errors="ignore") + "~#" + hashlib.sha256(data).hexdigest()[:32]


def word(name: str) -> str:
    """One word for a name, for routing keys, in which dots and stars have a meaning."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def part_of(priority: int) -> str:
    """Where a message of that priority waits."""
    return str(min(priority, HIGHEST_PRIORITY)) if priority > 0 else PLAIN


class Envelope(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """What is known of a message besides its bytes. One that was never taken has none.

    `due_at` is there where its delay is too long for one way through the chain. `reason` and what follows: of a dead
    letter; `letter` is its own name, for the case that another has its key.
    """

    fence: int = 0
    queue: str = ""
    part: str = PLAIN
    crashes: tuple[Casualty, ...] = ()
    verdict: str | None = None
    committed: bool = False
    due_at: float | None = None
    reason: str = ""
    detail: str = ""
    died_at: float = 0.0
    letter: bytes = b""

    @property
    def is_suspect(self) -> bool:
        """Whether it is delivered alone."""
        return bool(self.crashes) or self.verdict is not None


NEW: Final = Envelope()
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Envelope).decode
_BARE: Final = b"\0\0\0\0"


def wrap(data: bytes, envelope: Envelope | None = None) -> bytes:
    """The body for the server."""
    if envelope is None:
        return _BARE + data
    head = _pack(envelope)
    return _LENGTH.pack(len(head)) + head + data


def unwrap(body: bytes) -> tuple[Envelope, bytes]:
    """Envelope and bytes of a message; what somebody else put into the queue is a message as it is."""
    if body[:4] == _BARE:
        return NEW, body[4:]
    try:
        end = 4 + _LENGTH.unpack_from(body)[0]
        return _unpack(body[4:end]), body[end:]
    except (struct.error, msgspec.DecodeError, UnicodeDecodeError):
        return NEW, body


def mark(name: bytes) -> bytes:
    """The body of a mark."""
    return _MARK + name


def mark_name(body: bytes) -> bytes | None:
    """The name of a mark; None: it is a message."""
    return body[4:] if body[:4] == _MARK and len(body) == 16 else None
