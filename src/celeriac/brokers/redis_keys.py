"""Where a queue's keys are on Redis, the scripts that know them, and what values say. See `redis.lua` for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from celeriac.brokers.contract import Casualty, DeadLetter, Outgoing
from celeriac.drivers.redis import Address, Reply, Script, read_scripts
from celeriac.drivers.redis_joins import delay_text

_HERE: Final = os.path.dirname(__file__)
SCRIPTS: Final[Mapping[str, Script]] = read_scripts(f"{_HERE}/redis.lua", f"{_HERE}/redis_moving.lua")


def channel(address: Address, name: str) -> str:
    """Where notices of that name are told. Channels are the server's: each database has its own among them."""
    return f"{address.prefix}control:{address.database}:{name}"


class Keyspace:
    """The names of one broker's keys, and which queues it has listed on the server already."""

    def __init__(self, address: Address) -> None:
        self.prefix = address.prefix
        #: Where results are, for those that are stored together with a settlement: not in a cluster.
        self.results = b"" if address.cluster is not None else address.prefix.encode() + b"r:"
        self.joins = address.prefix.encode() + b"j:"
        self.queues = address.prefix + "queues"
        self.bans = address.prefix + "bans"
        self._listed: frozenset[str] = frozenset()

    def base(self, queue: str) -> str:
        """The common beginning of a queue's keys; the braces keep them in one slot of a cluster."""
        return f"{self.prefix}{{{queue}}}"

    def subscriptions(self, broadcast: str) -> str:
        """The key of the queues that have copies of what is sent to a broadcast."""
        return f"{self.prefix}s:{broadcast}"

    def list_queues(self, call: Callable[..., Reply], names: Iterable[str]) -> None:
        """Put queues into the list of all queues, those that are new here. `call` takes a command for `queues`."""
        for name in set(names) - self._listed:
            call("SADD", self.queues, name)
            self._listed |= {name}

    def stored(self, outgoing: Outgoing) -> tuple[str, int, int | str, bytes]:
        """What the settle script needs to store a message."""
        return (self.base(outgoing.queue), outgoing.priority, delay_text(outgoing.due_at), outgoing.data)


class Header(msgspec.Struct):
    """What the bury script writes of a dead letter."""

    reason: str
    detail: str
    at: float


_read_header: Final = msgspec.json.Decoder(Header).decode
read_casualties: Final = msgspec.json.Decoder(list[Casualty]).decode


def dead_letter(queue: str, key: bytes, value: bytes) -> DeadLetter:
    """The dead letter that a value of base:y is."""
    first, casualties, data = value[1:].split(b"\n", 2)
    header = _read_header(first.decode(errors="replace"))
    return DeadLetter(
        queue=queue,
        key=bytes(key),
        data=data,
        reason=header.reason,
        detail=header.detail,
        died_at=header.at,
        casualties=read_casualties(casualties.decode(errors="replace")),
    )
