"""Keeps the children's leases alive, from a process that no task can block.

A thread of the supervisor, because a broker call may block and the supervisor's loop must not. It renews all
owners in one call, which is also the queues' housekeeping; it ends the leases of dead children; it deletes dead
letters that are too old or too many; it moves messages to where the worker takes, if that is elsewhere; and while the
broker is away it tries again, with growing delays.

`LeaseKeeper` is written to by the main loop only; what the two threads share is behind its condition.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from celeriac import clock
from celeriac.brokers.abilities import Broadcasting
from celeriac.brokers.contract import Broker, Casualty
from celeriac.brokers.relay import SamePlace, TargetAway, relay
from celeriac.events import (
    BrokerBack,
    BrokerCaution,
    BrokerLost,
    CopiesForgotten,
    DeadLettersEvicted,
    MessagesMoved,
    emit,
)
from celeriac.message import id_of
from celeriac.supervisor.condition import BrokerCondition
from celeriac.wire import Broadcast

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 3.0
#: A broker that stays away is told of so often, not at every attempt.
_TELL_EVERY = 30.0
#: Dead letters are looked at once in so many leases, and at the start: a look finds nothing, as a rule.
_LEASES_BETWEEN_LOOKS = 2.0


class Surrender(msgspec.Struct, frozen=True):
    """A dead child's owner, and what its messages are owed."""

    owner: str
    casualties: Mapping[bytes, Casualty] = {}
    verdicts: Mapping[bytes, str] = {}


class Terms(msgspec.Struct, frozen=True):
    """What is renewed, and for how long; and when a broker that is away is given up.

    `lost_timeout`: after so many seconds; `retries`: after so many more attempts; None is never. Without
    `wait_at_start` at once, where it has not answered yet. `dead_max` letters a queue keeps, each for `dead_lifetime`
    seconds; None is no limit. `broadcasts`: what this worker has copies of.
    """

    queues: Sequence[str]
    lease: float
    max_deliveries: int
    lost_timeout: float | None = None
    retries: int | None = None
    wait_at_start: bool = True
    dead_max: int | None = None
    dead_lifetime: float | None = None
    broadcasts: Sequence[Broadcast] = ()


class Count(msgspec.Struct, frozen=True):
    """Wanted: how many messages wait."""


class Relay(msgspec.Struct, frozen=True):
    """Wanted: that messages of this queue are moved to where the worker takes."""

    queue: str


Work = Surrender | tuple[str, ...] | str | Count | Relay


class LeaseKeeper:
    """Renews, surrenders, counts what waits, and says when the broker has been away for too long."""

    def __init__(self, broker: Broker, terms: Terms, given_up: Callable[[], None]) -> None:
        """`given_up` is called, from the keeper's thread, when the broker has been away for too long."""
        self._broker = broker
        self._terms = terms
        self._given_up = given_up
        self._changed = threading.Condition()
        self._owners: dict[str, None] = {}
        self._surrenders: deque[Surrender] = deque()
        self._is_to_count = False
        self._backlog: int | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="leases", daemon=True)
        # Written by the thread, and by whoever has it look soon.
        self._renew_at = 0.0
        # Read and written by the thread only.
        self._look_at = 0.0
        #: Queues whose dead letters are still to be looked at.
        self._to_prune: deque[str] = deque()
        self._failures = 0
        self._told_at = 0.0
        # Written by the thread, and read by whoever asks for the condition.
        self._lost_at: float | None = None
        self._renewed_at: float | None = None
        self._asked_at: float | None = None
        self._is_given_up = False
        # Where to move what comes to this broker, and for how long it is to be remembered there what is revoked;
        # queues that are still to be looked into, and those of which others move messages elsewhere.
        self._target: Broker | None = None
        self._revoke_keep = 0.0
        self._to_relay: deque[str] = deque()
        self._hindered: set[str] = set()

    @property
    def broker(self) -> Broker:
        """The broker that it asks."""
        return self._broker

    @property
    def is_given_up(self) -> bool:
        """Whether the broker has been away for too long, and still is."""
        return self._is_given_up

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, owner: str) -> None:
        """A child takes under this owner: keep its lease."""
        with self._changed:
            self._owners[owner] = None

    def discard(self, owner: str) -> None:
        """The owner has ended its lease itself, or has another name now."""
        with self._changed:
            self._owners.pop(owner, None)

    def surrender(self, surrender: Surrender) -> None:
        """Its process is dead: end its lease as soon as the broker can be reached."""
        with self._changed:
            self._owners.pop(surrender.owner, None)
            self._surrenders.append(surrender)
            self._changed.notify()

    def count_backlog(self) -> None:
        """Have it counted, soon, how many messages wait in the queues; `backlog` forgets what was counted before."""
        with self._changed:
            self._is_to_count = True
            self._backlog = None
            self._changed.notify()

    def look_soon(self) -> None:
        """Renew at once: somebody cannot reach the broker."""
        with self._changed:
            if not self._failures:
                self._renew_at = 0.0
                self._changed.notify()

    def relay_to(self, target: Broker | None, revoke_keep: float) -> None:
        """Whatever waits in the queues, or is dead, is moved there from now on, with every renewal; None: it stays."""
        with self._changed:
            self._target, self._revoke_keep = target, revoke_keep
            self._to_relay.clear()
            if target is not None:
                self._to_relay.extend(self._terms.queues)
            self._changed.notify()

    def backlog(self) -> int | None:
        """How many messages waited when that was last counted; None: not known, or the broker is away."""
        with self._changed:
            return self._backlog

    def condition(self) -> BrokerCondition:
        """How the broker is, as far as is known; does not ask it."""
        now = clock.monotonic()
        lost_at, renewed_at, asked_at = self._lost_at, self._renewed_at, self._asked_at
        return BrokerCondition(
            place=self._broker.place,
            lease=self._terms.lease,
            renewed=None if renewed_at is None else now - renewed_at,
            away=None if lost_at is None else now - lost_at,
            asking=None if asked_at is None else now - asked_at,
        )

    def finish(self) -> None:
        """Stop when all surrenders are done. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def close(self, timeout: float) -> bool:
        """Stop, when all surrenders are done, or after `timeout` seconds. Whether they are. Idempotent."""
        self.finish()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while (work := self._wait_for_work()) is not None:
            self._asked_at = clock.monotonic()
            try:
                self._do(work)
            except Exception as exc:  # noqa: BLE001 - whatever fails, the children's leases must be kept
                self._lost(exc)
            else:
                self._back()
            finally:
                self._asked_at = None
        self._broker.close()

    def _wait_for_work(self) -> Work | None:
        """A surrender, the owners to renew, when it is time, or else what waits to be counted, a queue to prune, or one
        to be moved from.

        None: closed, and nothing is left to do.
        """
        with self._changed:
            while True:
                now = clock.monotonic()
                if self._surrenders and (not self._failures or now >= self._renew_at):
                    return self._surrenders[0]
                if self._closing and not self._surrenders:
                    return None
                if now >= self._renew_at:
                    return tuple(self._owners)
                if self._is_to_count and not self._failures:
                    self._is_to_count = False
                    return Count()
                if self._to_prune and not self._failures:
                    return self._to_prune.popleft()
                if self._to_relay and not self._failures:
                    return Relay(self._to_relay.popleft())
                self._changed.wait(self._renew_at - now)

    def _do(self, work: Work) -> None:
        terms = self._terms
        if isinstance(work, str):
            self._prune(work)
            return
        if isinstance(work, Count):
            self._count()
            return
        if isinstance(work, Relay):
            self._relay(work.queue)
            return
        if isinstance(work, tuple):
            # An owner that is lost stays on the list: one that has not taken yet is unknown too. A child that
            # notices the loss takes under a new name, and says so.
            self._broker.renew(terms.queues, work, terms.lease, terms.max_deliveries)
            if terms.broadcasts:
                self._renew_broadcasts()
            if self._renewed_at is None:
                for text in self._broker.cautions():
                    emit(BrokerCaution(self._broker.place, text))
            self._renewed_at = clock.monotonic()
            self._renew_at = self._renewed_at + terms.lease / 3
            if self._target is not None:
                self._to_relay.extend(queue for queue in terms.queues if queue not in self._to_relay)
            if self._renewed_at >= self._look_at:
                self._look_at = self._renewed_at + _LEASES_BETWEEN_LOOKS * terms.lease
                self._to_prune.extend(queue for queue in terms.queues if queue not in self._to_prune)
            return
        self._broker.surrender(terms.queues, work.owner, work.casualties, work.verdicts, terms.max_deliveries)
        with self._changed:
            self._surrenders.popleft()

    def _renew_broadcasts(self) -> None:
        """Have copies for longer; and delete the queues of workers that have been away twice as long as they may."""
        broker = self._broker
        if not isinstance(broker, Broadcasting):
            return
        for one in self._terms.broadcasts:
            broker.subscribe(one.name, one.queue, one.keep)
            for queue in broker.forget_lapsed(one.name, one.keep):
                emit(CopiesForgotten(one.name, queue))

    def _count(self) -> None:
        stats = [self._broker.stats(queue) for queue in self._terms.queues]
        with self._changed:
            self._backlog = sum(one.ready for one in stats if not one.paused)

    def _prune(self, queue: str) -> None:
        """One step: what is left comes after the other queues, and after whatever is more urgent."""
        pruned = self._broker.prune_dead(queue, self._terms.dead_max, self._terms.dead_lifetime)
        if count := pruned.expired or pruned.surplus:
            reason = "age" if pruned.expired else "count"
            emit(DeadLettersEvicted(queue, count, reason, id_of(pruned.oldest)))
        if pruned.is_more:
            self._to_prune.append(queue)

    def _relay(self, queue: str) -> None:
        """One step: one crate, and the next one comes after whatever is more urgent."""
        target = self._target
        if target is None:
            return
        try:
            crate = relay(self._broker, target, queue, self._revoke_keep)
        except TargetAway:
            # Its own keeper tells of it; what is packed goes there later.
            return
        except SamePlace as exc:
            self._target = None
            emit(BrokerCaution(self._broker.place, str(exc)))
            return
        if crate is None:
            self._hindered.discard(queue)
        elif crate.target == target.place:
            emit(MessagesMoved(queue, len(crate.parcels), self._broker.place, target.place))
            self._to_relay.append(queue)
        elif queue not in self._hindered:
            self._hindered.add(queue)
            text = (
                f"messages of {queue} are on their way to {crate.target} and stay here until that move is ended: "
                "celeriac move --from ... --to ..., or --give-back"
            )
            emit(BrokerCaution(self._broker.place, text))

    def _lost(self, error: Exception) -> None:
        now = clock.monotonic()
        longest = min(_LONGEST_DELAY, self._terms.lease / 6)
        delay = clock.backoff(self._failures, _FIRST_DELAY, longest)
        if self._lost_at is None:
            self._lost_at = now
        self._failures += 1
        self._renew_at = now + delay
        if now >= self._told_at + _TELL_EVERY or self._failures == 1:
            self._told_at = now
            emit(BrokerLost(self._broker.place, f"{type(error).__name__}: {error}", delay))
        if self._is_hopeless(now - self._lost_at):
            self._is_given_up = True
            self._given_up()

    def _is_hopeless(self, away: float) -> bool:
        terms = self._terms
        if self._renewed_at is None and not terms.wait_at_start:
            return True
        is_late = terms.lost_timeout is not None and away >= terms.lost_timeout
        return is_late or (terms.retries is not None and self._failures > terms.retries)

    def _back(self) -> None:
        if self._lost_at is None:
            return
        away = clock.monotonic() - self._lost_at
        self._lost_at = None
        self._is_given_up = False
        self._failures = 0
        # Renew at once: the leases have run down meanwhile.
        self._renew_at = 0.0
        emit(BrokerBack(self._broker.place, away))
