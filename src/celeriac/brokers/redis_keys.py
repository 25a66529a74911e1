"""Where a queue's keys are on Redis, and the scripts that know them. `redis.lua` describes every one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final

from celeriac import clock
from celeriac.brokers.contract import Outgoing
from celeriac.drivers.redis import Address, Connection, Script, read_scripts

SCRIPTS: Final[Mapping[str, Script]] = read_scripts(f"{os.path.dirname(__file__)}/redis.lua")


class Keyspace:
    """The names of one broker's keys, and which queues it has listed on the server already."""

    def __init__(self, address: Address) -> None:
        self.prefix = address.prefix
        #: Where results are, for those that are stored together with a settlement.
        self.results = address.prefix.encode() + b"r:"
        self.joins = address.prefix.encode() + b"j:"
        self.queues = address.prefix + "queues"
        self.bans = address.prefix + "bans"
        self._listed: frozenset[str] = frozenset()

    def base(self, queue: str) -> str:
        """The common beginning of a queue's keys; the braces keep them in one slot of a cluster."""
        return f"{self.prefix}{{{queue}}}"

    def list_queues(self, connection: Connection, names: Iterable[str]) -> None:
        """Put queues into the list of all queues, those that are new here."""
        for name in set(names) - self._listed:
            connection.call("SADD", self.queues, name)
            self._listed |= {name}

    def stored(self, outgoing: Outgoing) -> tuple[str, int, int | str, bytes]:
        """What the settle script needs to store a message."""
        return (self.base(outgoing.queue), outgoing.priority, delay_text(outgoing.due_at), outgoing.data)


def delay_text(due_at: float | None) -> int | str:
    """When a message is due, as scripts want it: milliseconds from now, or nothing.

    From now, because it was reckoned by the clock of this machine, which may differ from the server's.
    """
    return "" if due_at is None else max(0, int((due_at - clock.now()) * 1000))
