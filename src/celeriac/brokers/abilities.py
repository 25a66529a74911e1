"""What some brokers and result stores can do besides the contract, because of what they are made of.

Whoever needs one of these asks with `isinstance`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import msgspec

from celeriac.brokers.contract import HIGHEST_PRIORITY, Casualty, Outgoing

#: The messages of a crate have about so many bytes at most, in all; one message always fits.
CRATE_BYTES: Final = 4_000_000


@runtime_checkable
class Limiting(Protocol):
    """It can keep a queue from growing beyond a length, at a cost that does not grow with that."""

    @property
    def place(self) -> str: ...

    def send_limited(self, batch: Sequence[Outgoing], most: Mapping[str, int], timeout: float) -> None:
        """As `Broker.send`, where no more than `most` messages may wait in a queue: ready ones and, where the broker is
        `Searchable`, delayed ones together.

        The count and the sending are one step, for a thousand messages at least: all of them are stored or none.

        Raises: QueueFull: those of one queue, and of queues behind it, are not stored. As `Broker.send`.
        """
        ...


@runtime_checkable
class Searchable(Protocol):
    """It can look at what is in its queues, and reach it there.

    So it does what the contract says of such brokers: `revoke` finds what waits, `stats` counts what is delayed and
    running and knows the oldest, `purge` deletes what is delayed, `Release` keeps the order of priorities.
    """

    @property
    def place(self) -> str: ...

    def find(self, queue: str, part: bytes) -> Iterator[bytes]:
        """The messages that contain these bytes and wait, are delayed or are held, the newest first in each.

        Looked for in steps that hold up nobody. What stays where it is is found; what moves meanwhile may be missing,
        or come twice.
        """
        ...


@runtime_checkable
class Overseeing(Protocol):
    """It knows what all workers hold."""

    def held(self, queue: str, keys: Collection[bytes]) -> set[bytes]:
        """Those of these tasks, which it remembers as revoked, that are in anybody's holding now.

        At a cost that grows with what is held, and not with the queue.

        Raises: as every verb.
        """
        ...


@runtime_checkable
class Broadcasting(Protocol):
    """It knows which queues have a copy of what is sent to a broadcast, each for a time."""

    @property
    def place(self) -> str: ...

    def subscribe(self, broadcast: str, queue: str, keep: float) -> None:
        """For `keep` seconds from now, and no longer, the queue is one of them. Raises: as every verb."""
        ...

    def subscribers(self, broadcast: str) -> list[str]:
        """These queues, sorted. Raises: as every verb."""
        ...

    def forget_lapsed(self, broadcast: str, grace: float) -> list[str]:
        """Delete the queues whose time has been over for `grace` seconds, with all that is in them: what waits, what is
        held, and what is dead. Returns their names.

        Raises: as every verb; the same call again is safe.
        """
        ...


@runtime_checkable
class Migrates(Protocol):
    """Its server must be made ready for it, which may need more rights than its use."""

    @property
    def place(self) -> str: ...

    def migrate(self, dry_run: bool) -> Sequence[str]:
        """Bring the server to what this version needs. Returns what that took, as text to be run by hand; with
        `dry_run` it is only returned.

        Raises: as every verb.
        """
        ...


@runtime_checkable
class Foretells(Protocol):
    """It can tell what falls due next."""

    def delayed(self, queue: str, limit: int) -> list[tuple[float, bytes]]:
        """When (epoch seconds) and what: `limit` delayed messages at most, the soonest first. They stay as they are.

        At a cost that does not grow with the queue's length.
        """
        ...


@runtime_checkable
class Transactional(Protocol):
    """It can store messages in a transaction of the application's own, in the same database."""

    def send_within(self, batch: Sequence[Outgoing], connection: Any) -> None:
        """Store messages over the application's connection: they are there if and only if its transaction commits.

        It takes as long as the connection does.

        Raises:
            ImproperlyConfigured: not a connection that can be used here, or one to another database.
            BrokerUnavailable, BrokerRefused: the broker's own; what the connection raises is its driver's.
        """
        ...


class Parcel(msgspec.Struct, frozen=True, gc=False):
    """A message on its way from one broker to another, with all that its broker knows of it.

    With `died_at` it is a dead letter, and `key`, `reason` and `detail` are the letter's; with `due_at` it is delayed.
    Times are epoch seconds.
    """

    data: bytes
    priority: int = 0
    due_at: float | None = None
    verdict: str | None = None
    casualties: tuple[Casualty, ...] = ()
    died_at: float | None = None
    key: bytes = b""
    reason: str = ""
    detail: str = ""


def plain_priority(priority: int) -> int:
    """A priority that any broker takes: some keep what comes before all others under one that is out of range."""
    return min(max(priority, 0), HIGHEST_PRIORITY)


class Crate(msgspec.Struct, frozen=True):
    """Messages of one queue that have been taken out of it to go to the place `target`: they wait for nobody now.

    A queue has one crate at most, and one `series` for ever; the `number` of its crates grows.
    """

    queue: str
    target: str
    series: bytes
    number: int
    parcels: Sequence[Parcel]


@runtime_checkable
class Movable(Protocol):
    """Its messages can be moved to another broker, and another's to it, so that each is there once whatever happens.

    The source packs a crate, the target unpacks it, the source discards it. Each is one step, which may be repeated.
    """

    @property
    def place(self) -> str: ...

    def pack(self, queue: str, target: str, limit: int) -> Crate | None:
        """Take messages out of a queue into its crate: `limit`, and some MB, at most. None: there is nothing to take.

        What is ready comes first, in the order of taking; then what is delayed, the soonest first; then what is dead,
        the oldest first. A crate has messages of one of these. What runs is left alone, and a pause changes nothing.
        What is delayed stays at a broker that is not `Searchable`, until it is due and so ready.
        If the queue's last crate has not been discarded, it is that one, whatever its target; with a limit of 0, only
        that one.

        Raises: BrokerUnavailable, BrokerRefused
        """
        ...

    def unpack(self, crate: Crate) -> bool:
        """Store what another place has packed: in a queue of the same name, behind what is there. False: a crate of
        that series with this number, or a greater one, has been unpacked here before, and nothing is stored.

        Due times and times of death stay as they are, by this place's clock. No dead letter replaces another.

        Raises: BrokerUnavailable, BrokerRefused
        """
        ...

    def discard(self, crate: Crate) -> None:
        """The crate is stored elsewhere: end its messages here. Raises: BrokerUnavailable, BrokerRefused"""
        ...
