"""What a broker promises: the verbs that every adapter has, and one sentence of guarantee for each.

How deliveries stay safe, on every broker:

- **Owner.** A consumer takes messages under an *owner*: a name that is new at every start. What an owner has
  taken and not settled is its *holding*. One lease covers the whole holding, so a lease costs the same
  for one message as for a thousand. `renew` lengthens it; the supervisor calls that, from outside the tasks.
- **Fence.** Every delivery carries a number that only grows. A settlement is refused when the delivery is
  no longer in its owner's holding under that number: the lease ended and the message went elsewhere.
- **Crash count.** Kept by the broker, apart from the message: a delivery that ended with a dead process
  adds one and a `Casualty`. The message is delivered again at once after the first, then after growing pauses
  (`crash_pause`); at `max_deliveries` it is delivered once more, with the verdict `crashed`, for a worker to bury it:
  only a worker can store its failure and send what follows. What kills that worker too, is buried by the broker after
  `LAST_TRIES` of these. Giving back (`Release`, `Broker.surrender` of what was not started) counts nothing.
- **Suspects.** A message with a crash behind it is delivered alone, never in a batch, so that it can take
  nobody else's good name with it.
- **Revocation.** Kept by the broker, so that it holds with all workers down and for those that start later: a revoked
  message is delivered alone, with the verdict `revoked`, whichever way it comes.
- **Amnesty.** When nobody has done housekeeping on a queue for half a lease (the server or the whole
  fleet was away, or the clock jumped), leases are lengthened rather than ended.

The values are outside the garbage collector's view (`gc=False`): they hold bytes and numbers, and hundreds of
thousands of them pass at once.

`Searchable` and what else not every broker can is in `abilities.py`.

Values and protocols only. `tests/brokers` runs `celeriac.testing.brokers.BrokerContract` on every adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from celeriac.brokers.pruning import Pruned

#: Priorities are whole numbers; a higher one is taken first.
HIGHEST_PRIORITY = 9
#: The verdict, with a colon and details, on a message that has ended too many processes; the reason of its dead letter.
CRASHED = "crashed"
#: So many times a worker may die while it buries such a message; then the broker does.
LAST_TRIES = 3


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A message to be stored: its bytes, where, how urgent, and when at the earliest (epoch seconds).

    `transient`: it need not survive the end of its broker, which may spare itself the disk. It is kept like any other
    where a broker cannot tell the difference.
    """

    queue: str
    data: bytes
    priority: int = 0
    due_at: float | None = None
    transient: bool = False


class Casualty(msgspec.Struct, frozen=True):
    """How one delivery ended with a dead process. `cause` is text for people: `signal 9 (SIGKILL)`, `exit code 3`,
    `lease expired`."""

    cause: str
    at: float
    worker: str = ""
    memory: int | None = None


class Delivery(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A message that we hold, and the proof that we hold it.

    `verdict` is set where it is already decided how this message ends (`time_limit:<seconds>`: a hard limit killed its
    run; `worker_lost:<cause>`: see `Consumer.commit`; `crashed:<detail>`: to be buried with that reason and detail;
    `revoked`, or `revoked:terminated` where its run was ended for it): it must not run again, the executor settles it
    accordingly.
    """

    queue: str
    data: bytes
    owner: str
    fence: int
    crashes: int = 0
    verdict: str | None = None

    @property
    def key(self) -> bytes:
        """The 16 bytes of the message's id; fewer where the message is garbage shorter than that."""
        return self.data[1:17]


def crash_pause(crashes: int) -> float:
    """Seconds before a message with so many crashes behind it is delivered again: none, 1, 4, 16, then 60."""
    return 0.0 if crashes < 2 else min(60.0, 4.0 ** (crashes - 2))


def crash_detail(casualties: Sequence[Casualty]) -> str:
    """Why a message with these behind it is buried, for people."""
    return f"its process died {len(casualties)} times, last by {casualties[-1].cause}"


def is_given_up(crashes: int, verdict: str | None, max_deliveries: int) -> bool:
    """Whether even its burial has killed too many: then the broker buries it, and nobody else is told."""
    judged = verdict is not None and verdict.startswith(CRASHED)
    return judged and crashes >= max_deliveries + LAST_TRIES


class Record(msgspec.Struct, frozen=True, gc=False):
    """A result to be stored with a settlement: the store's own bytes for a key, and for how long (seconds)."""

    key: bytes
    data: bytes
    ttl: float | None = None


#: How long a join is kept that is never completed or never used (seconds).
JOIN_TTL = 30 * 86400.0


class Join(msgspec.Struct, frozen=True):
    """A message that is sent once: when results for `size` places, 0 to size - 1, have come (a chord's body).

    `size` None: not known yet. `delay`: it is due so many seconds after that; None: as `outgoing` says.
    """

    key: bytes
    outgoing: Outgoing
    size: int | None = None
    delay: float | None = None


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A result that comes to a join. A place counts once, however often its result comes; the first one stays."""

    join: bytes
    place: int
    data: bytes


class Ack(msgspec.Struct, frozen=True):
    """The message is done with."""


class Release(msgspec.Struct, frozen=True):
    """The message goes back to the head of its queue, and nothing is counted. Where the broker is `Searchable`, behind
    those of a higher priority."""


class Replace(msgspec.Struct, frozen=True):
    """The message ends and another takes its place (a retry, a put-back with a delay), as one step."""

    successor: Outgoing


class PutBack(msgspec.Struct, frozen=True):
    """The message waits again until `due_at` (epoch seconds), in these bytes, which bear the same id.

    Unlike with Replace, its crash count and its verdict stay with it.
    """

    data: bytes
    due_at: float


class Bury(msgspec.Struct, frozen=True):
    """The message goes to the dead letters of its queue, with a reason and details for people."""

    reason: str
    detail: str = ""


Action = Ack | Release | Replace | PutBack | Bury


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """How one delivery ends: its result is stored, its follow-ups are sent, then the action is taken.

    `opens` are joins that results of the follow-ups will come to; one that is open already stays as it is. An arrival
    that completes its join sends the join's message with the follow-ups; `joins` names those that end because their
    results have been used. These and `records` may be given only to a broker that shares its `place` with the result
    store.
    """

    delivery: Delivery
    action: Action
    sends: Sequence[Outgoing] = ()
    records: Sequence[Record] = ()
    arrivals: Sequence[Arrival] = ()
    joins: Sequence[bytes] = ()
    opens: Sequence[Join] = ()


class QueueStats(msgspec.Struct, frozen=True):
    """One queue at a moment. `oldest_at`: when the message that waits longest was made (epoch seconds).

    `delayed` and `running` are None, and `oldest_at` always is, where the broker cannot tell: one that is not
    `Searchable`. `evicted`: how many dead letters `Broker.prune_dead` has ever deleted from it.
    """

    queue: str
    ready: int
    delayed: int | None
    running: int | None
    dead: int
    oldest_at: float | None = None
    paused: bool = False
    evicted: int = 0


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that will not run again unless somebody says so.

    `key` is the message's id; another name of up to 16 bytes where the message has none (garbage) or where a
    dead letter of that id is there already: no dead letter replaces another.
    """

    queue: str
    key: bytes
    data: bytes
    reason: str
    detail: str
    died_at: float
    casualties: Sequence[Casualty] = ()


class Revocation(msgspec.Struct, frozen=True):
    """A task that is to begin no run. `terminate`: a run of it that has begun is to be ended, by this signal at once
    or, where it is empty, by an exception first."""

    key: bytes
    terminate: bool = False
    signal: str = ""


#: The verdict on a revoked message.
REVOKED = "revoked"
#: The verdict on one whose run was ended because it was revoked.
TERMINATED = "revoked:terminated"
#: So many revocations of tasks that were not there are remembered for each queue; the oldest are forgotten first.
REMEMBERED = 50_000


#: So many bans are remembered; the soonest to be forgotten goes first.
MOST_BANS = 1_000


@runtime_checkable
class Consumer(Protocol):
    """Takes and settles messages of some queues, under one owner. Safe to call from several threads."""

    @property
    def owner(self) -> str:
        """The name under which messages are held now; a new one after a lost lease."""
        ...

    @property
    def place(self) -> str:
        """The broker's."""
        ...

    def take(self, limit: int, timeout: float, order: Sequence[str] | None = None) -> list[Delivery]:
        """Up to `limit` messages, waiting at most `timeout` seconds for the first; never blocks longer.

        Due messages come before ready ones are looked at, higher priorities first, then first in first out.
        A message is in the holding before it is returned. A paused queue gives nothing.
        A suspect, or a delivery with a verdict, comes alone.
        `order`: all queues of this consumer, as they are to be looked into: what comes is of the first that has
        something, and of no other. None: as suits the broker, such that none is passed over for ever.

        Raises:
            LeaseLost: this owner's lease had ended: all it held is gone; the next call starts under a new owner.
            BrokerUnavailable, BrokerRefused
        """
        ...

    def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        """End deliveries, in order. Returns those refused because they were no longer ours.

        For a refused one nothing is stored and nothing is sent. For each of the others: records, then sends, then the
        action; as one step where everything is in one place, else such that a crash repeats, never omits.

        Raises:
            BrokerUnavailable: it is not known which took effect; the same call again is safe.
            BrokerRefused: as many of the first as its `settled` says took effect, the others did not.
        """
        ...

    def confirm(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those of the deliveries that are no longer ours; for results kept in another place."""
        ...

    def note(self, delivery: Delivery, records: Sequence[Record]) -> bool:
        """Store what is known of a run on its way, if the delivery is still ours; one step. False: it is not.

        Only where the broker shares its `place` with the result store.

        Raises: BrokerUnavailable: it is not known whether they are stored. BrokerRefused
        """
        ...

    def commit(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Their runs begin now and must not be repeated (`acks_late=False`). Returns those no longer ours.

        They stay in the holding, to be settled as ever. Whatever would deliver them again (a dead process, a lost
        lease, giving back) brings them as suspects with the verdict `worker_lost`, or `worker_lost:<cause>`.

        Raises: BrokerUnavailable: it is not known whether they are committed.
        """
        ...

    def bans(self) -> list[bytes]:
        """As the broker's, over this consumer's own connection."""
        ...

    def wake(self) -> None:
        """Make a `take` that waits in another thread return soon."""
        ...

    def close(self) -> None:
        """Give back what is held, unless the lease is lost already, and end the lease. Idempotent."""
        ...


@runtime_checkable
class Broker(Protocol):
    """Keeps messages until they are settled. Safe to call from several threads; fork-aware."""

    @property
    def place(self) -> str:
        """Names the server and database, without secrets; equal to a result store's where both are one."""
        ...

    def send(self, batch: Sequence[Outgoing], timeout: float) -> None:
        """When it returns, every message survives a restart of the broker, as far as the broker is durable and the
        message not transient.

        Order is kept within a queue and priority. Idempotent for a retried call within one `send`
        as far as the server can tell.

        Raises:
            BrokerUnavailable: not stored, or not known to be stored, within `timeout` seconds in all.
            BrokerRefused: the server answered and refused.
        """
        ...

    def consumer(self, queues: Sequence[str], owner: str, *, lease: float, max_deliveries: int) -> Consumer:
        """A consumer of these queues, under that owner; its lease lasts `lease` seconds from each renewal."""
        ...

    def renew(
        self, queues: Sequence[str], owners: Sequence[str], lease: float, max_deliveries: int
    ) -> list[str]:
        """Lengthen the leases of owners, and do the queues' housekeeping: end expired leases, wake who is due.

        Returns the owners that had been lost already (also those never known). `owners` may be empty.
        """
        ...

    def surrender(
        self, queues: Sequence[str], owner: str, casualties: Mapping[bytes, Casualty], verdicts: Mapping[bytes, str],
        max_deliveries: int,
    ) -> int:  # fmt: skip
        """A process is dead: end its lease now. Returns how many messages it held.

        By key: a casualty's crash count grows, and at `max_deliveries` it comes back with the verdict `crashed`; one
        with a verdict comes back as a suspect that carries it, counted as no crash; everything else is given back to
        the head of its queue uncounted.
        """
        ...

    def revoke(self, queue: str, revocations: Sequence[Revocation], keep: float) -> list[bytes]:
        """From the return of this call on, these tasks begin no run in this queue.

        Returns the keys of those that waited, ready or delayed: they are delivered next, with the verdict `revoked`,
        and nobody runs them. A broker that is not `Searchable` returns none: it remembers them, and they get the
        verdict when their turn comes. What is in a holding stays there (whoever holds it is told by `notify`), and is
        remembered like what is not in the queue: for `keep` seconds, until it is delivered, with the verdict, or
        until `REMEMBERED` others have come. So is what waits with another verdict.

        The cost grows with what waits in the queue, in steps that hold up nobody; the newest are looked at first.
        A task that is taken meanwhile gets the verdict and may be missing in what is returned.

        Raises: BrokerUnavailable, BrokerRefused: some may be revoked; the same call again is safe.
        """
        ...

    def revoked(self, queue: str) -> list[Revocation]:
        """What is remembered as revoked, oldest first."""
        ...

    def ban(self, ban: bytes, keep: float) -> None:
        """Remember for `keep` seconds what is revoked without being known by its key: for workers, who read it."""
        ...

    def bans(self) -> list[bytes]:
        """What is remembered so, the soonest to be forgotten first: `MOST_BANS` at most."""
        ...

    def notify(self, name: str, data: bytes) -> int:
        """Tell those who listen to this name now; nothing is kept for others. Returns how many were told at least,
        where the broker can tell; else 0."""
        ...

    def listen(self, names: Sequence[str]) -> Listener:
        """Hear what is told under these names from now on, over a connection of its own.

        It connects at once; where that fails, the first `wait` says so.
        """
        ...

    def queues(self) -> list[str]:
        """The names of all queues that were ever sent to, sorted."""
        ...

    def stats(self, queue: str) -> QueueStats:
        """Counts and oldest age, at a cost that does not grow with the queue's length."""
        ...

    def purge(self, queue: str) -> int:
        """Delete what waits, ready and, where the broker is `Searchable`, delayed; not what is running or dead.
        Returns how many."""
        ...

    def pause(self, queue: str) -> None:
        """Consumers take nothing from the queue until `resume`; survives restarts; sending goes on."""
        ...

    def resume(self, queue: str) -> None: ...

    def dead(self, queue: str, *, after: bytes | None = None, limit: int = 100) -> list[DeadLetter]:
        """Dead letters, oldest first, from behind the one whose key is `after`."""
        ...

    def find_dead(self, queue: str, key: bytes) -> DeadLetter | None: ...

    def replay(self, queue: str, keys: Sequence[bytes]) -> int:
        """Send dead letters again, as one step each, their crash counts forgotten. Returns how many were there.

        In the same step it forgets their results, where these are kept in the same place: they will have new ones.
        """
        ...

    def drop(self, queue: str, keys: Sequence[bytes]) -> int:
        """Delete dead letters. Returns how many were there."""
        ...

    def cautions(self) -> list[str]:
        """What the server is set up to do that breaks this contract, in words for its operator. May be wrong by
        omission: a server that does not say how it is set up earns none."""
        ...

    def prune_dead(self, queue: str, keep: int | None, lifetime: float | None, limit: int = 200) -> Pruned:
        """Delete dead letters that died more than `lifetime` seconds ago, and the oldest of more than `keep`.

        None is no limit. The oldest first, for one of the two reasons and at most `limit` in one step; each is counted
        in `QueueStats.evicted` in the same step. With nothing to delete it costs next to nothing, however many there
        are.
        """
        ...

    def close(self) -> None:
        """Close all connections. Idempotent; a later call opens new ones."""
        ...


class Listener(Protocol):
    """Hears notices. For one thread; `wake` and `close` for any."""

    def wait(self, timeout: float) -> list[tuple[str, bytes]]:
        """Names and data of what was told, waiting at most `timeout` seconds for the first.

        Raises: BrokerUnavailable: something may have been missed; the next call connects again.
        """
        ...

    def wake(self) -> None:
        """Make a `wait` in another thread return soon."""
        ...

    def close(self) -> None:
        """Hear no more: a `wait` in another thread, and every later one, returns nothing at once. Idempotent."""
        ...


class BrokerFactory(Protocol):
    """How adapters are made: the class itself. `options` are `broker_transport_options` plus the URL's query."""

    def __call__(self, url: Any, options: Mapping[str, Any]) -> Broker: ...
