"""A broker in the memory of this process (`memory://name`): for tests and for running tasks in place.

It keeps the whole contract (leases, fences, suspects, dead letters, delays) but for surviving the process.
The same name is the same broker everywhere in the process. One lock guards everything.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from itertools import islice
from typing import Any, assert_never

from celeriac import clock
from celeriac.brokers import memory_revoking, room
from celeriac.brokers.contract import (
    CRASHED,
    HIGHEST_PRIORITY,
    Ack,
    Bury,
    Casualty,
    DeadLetter,
    Delivery,
    Outgoing,
    PutBack,
    QueueStats,
    Record,
    Release,
    Replace,
    Revocation,
    Settlement,
    crash_detail,
    crash_pause,
    is_given_up,
)
from celeriac.brokers.memory_broadcasts import MemoryBroadcasts
from celeriac.brokers.memory_revoking import MemoryListener
from celeriac.brokers.pruning import Pruned, prunable
from celeriac.drivers.memory import Entry, Lease, Queue, Space
from celeriac.exceptions import BrokerRefused, LeaseLost
from celeriac.message import KEY, created_at
from celeriac.urls import Url

LEASE_EXPIRED = "lease expired"
#: The verdict on a message whose run had been committed; with a colon and the cause where one is known.
WORKER_LOST = "worker_lost"


class MemoryBroker(MemoryBroadcasts):
    """The broker of one space. See `Broker` for what each verb promises."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        self._space = Space.open(url)

    @property
    def place(self) -> str:
        return self._space.place

    def send(self, batch: Sequence[Outgoing], timeout: float) -> None:
        self.send_limited(batch, {}, timeout)

    def send_limited(self, batch: Sequence[Outgoing], most: Mapping[str, int], timeout: float) -> None:
        with self._entered() as space:
            if most:
                room.check(batch, most, lambda name: space.queue(name).count_waiting())
            for outgoing in batch:
                _store(space, outgoing)
            space.changed.notify_all()

    def consumer(
        self, queues: Sequence[str], owner: str, *, lease: float, max_deliveries: int
    ) -> MemoryConsumer:
        return MemoryConsumer(self._space, queues, owner, lease, max_deliveries)

    def renew(
        self, queues: Sequence[str], owners: Sequence[str], lease: float, max_deliveries: int
    ) -> list[str]:
        with self._entered() as space:
            now = clock.now()
            known: set[str] = set()
            for name in queues:
                queue = space.queue(name)
                for owner in queue.leases.keys() & set(owners):
                    queue.leases[owner] = Lease(now + lease, lease)
                    known.add(owner)
                _keep_house(queue, now, lease, max_deliveries)
            space.changed.notify_all()
            return [owner for owner in owners if owner not in known]

    def surrender(
        self,
        queues: Sequence[str],
        owner: str,
        casualties: Mapping[bytes, Casualty],
        verdicts: Mapping[bytes, str],
        max_deliveries: int,
    ) -> int:
        with self._entered() as space:
            held = 0
            for name in queues:
                queue = space.queue(name)
                for entry in _end_lease(queue, owner):
                    held += 1
                    key = entry.data[KEY]
                    if key in verdicts:
                        entry.verdict, entry.is_committed = verdicts[key], False
                    elif key in casualties:
                        _count_crash(queue, entry, casualties[key], max_deliveries)
                        continue
                    _make_ready(queue, entry)
            space.changed.notify_all()
            return held

    def revoke(self, queue: str, revocations: Sequence[Revocation], keep: float) -> list[bytes]:
        with self._entered() as space:
            found = memory_revoking.revoke(space.queue(queue), revocations, keep)
            space.changed.notify_all()
            return found

    def revoked(self, queue: str) -> list[Revocation]:
        with self._entered() as space:
            return memory_revoking.revoked(space.queue(queue))

    def held(self, queue: str, keys: Collection[bytes]) -> set[bytes]:
        with self._entered() as space:
            return {entry.data[KEY] for entry in space.queue(queue).running.values()}.intersection(keys)

    def ban(self, ban: bytes, keep: float) -> None:
        with self._entered() as space:
            memory_revoking.ban(space, ban, keep)

    def bans(self) -> list[bytes]:
        with self._entered() as space:
            return memory_revoking.bans(space)

    def find(self, queue: str, part: bytes) -> Iterator[bytes]:
        with self._entered() as space:
            return iter(memory_revoking.find(space.queue(queue), part))

    def notify(self, name: str, data: bytes) -> int:
        with self._entered() as space:
            return memory_revoking.notify(space, name, data)

    def listen(self, names: Sequence[str]) -> MemoryListener:
        self._space.check_process(BrokerRefused)
        return MemoryListener(self._space, names)

    def queues(self) -> list[str]:
        with self._entered() as space:
            return sorted(queue.name for queue in space.queues.values() if queue.was_sent_to)

    def stats(self, queue: str) -> QueueStats:
        with self._entered() as space:
            found = space.queues.get(queue) or Queue(queue)
            oldest = found.oldest()
            oldest_at = None if oldest is None else created_at(oldest.data[KEY])
            waiting = (found.count_ready(), len(found.delayed))
            others = (len(found.running), len(found.dead))
            return QueueStats(queue, *waiting, *others, oldest_at, found.paused, found.evicted)

    def purge(self, queue: str) -> int:
        with self._entered() as space:
            found = space.queue(queue)
            count = found.count_waiting()
            found.ready.clear()
            found.delayed.clear()
            return count

    def pause(self, queue: str) -> None:
        with self._entered() as space:
            space.queue(queue).paused = True

    def resume(self, queue: str) -> None:
        with self._entered() as space:
            space.queue(queue).paused = False
            space.changed.notify_all()

    def dead(self, queue: str, *, after: bytes | None = None, limit: int = 100) -> list[DeadLetter]:
        with self._entered() as space:
            letters = space.queue(queue).dead
            start = list(letters).index(after) + 1 if after is not None and after in letters else 0
            return [letter for letter, _ in islice(letters.values(), start, start + limit)]

    def find_dead(self, queue: str, key: bytes) -> DeadLetter | None:
        with self._entered() as space:
            found = space.queue(queue).dead.get(key)
            return None if found is None else found[0]

    def replay(self, queue: str, keys: Sequence[bytes]) -> int:
        with self._entered() as space:
            found = space.queue(queue)
            there = [found.dead.pop(key)[1] for key in keys if key in found.dead]
            for entry in there:
                space.records.pop(entry.data[KEY], None)
                entry.position, entry.casualties, entry.verdict = space.next_position(), (), None
                entry.is_committed = False
                entry.priority = min(entry.priority, HIGHEST_PRIORITY)
                _make_ready(found, entry)
            space.changed.notify_all()
            return len(there)

    def drop(self, queue: str, keys: Sequence[bytes]) -> int:
        with self._entered() as space:
            letters = space.queue(queue).dead
            return sum(letters.pop(key, None) is not None for key in keys)

    def cautions(self) -> list[str]:
        return []

    def prune_dead(self, queue: str, keep: int | None, lifetime: float | None, limit: int = 200) -> Pruned:
        before = None if lifetime is None else clock.now() - lifetime
        with self._entered() as space:
            found = space.queue(queue)
            head = [(key, letter.died_at) for key, (letter, _) in islice(found.dead.items(), limit + 1)]
            pruned = prunable(head, len(found.dead), keep, before, limit)
            for key, _ in head[: pruned.expired + pruned.surplus]:
                del found.dead[key]
                found.evicted += 1
            return pruned

    def close(self) -> None:
        """Nothing to close: the space stays for whoever opens the same name again."""

    @contextmanager
    def _entered(self) -> Generator[Space]:
        self._space.check_process(BrokerRefused)
        with self._space.changed:
            yield self._space


class MemoryConsumer:
    """Takes and settles under one owner. See `Consumer` for what each verb promises."""

    def __init__(
        self, space: Space, queues: Sequence[str], owner: str, lease: float, max_deliveries: int
    ) -> None:
        self._space = space
        self._names = tuple(queues)
        self._first_owner = owner
        self._owner = owner
        self._lease = lease
        self._max_deliveries = max_deliveries
        #: The four below are read and written under the space's lock only.
        self._owners_lost = 0
        self._is_registered = False
        self._is_closed = False
        self._is_woken = False

    @property
    def owner(self) -> str:
        return self._owner

    @property
    def place(self) -> str:
        return self._space.place

    def take(self, limit: int, timeout: float, order: Sequence[str] | None = None) -> list[Delivery]:
        self._space.check_process(BrokerRefused)
        deadline = clock.monotonic() + timeout
        with self._space.changed:
            while True:
                now = clock.now()
                queues = [self._space.queue(name) for name in self._names]
                self._check_leases(queues, now)
                looks = [queues] if order is None else [[self._space.queue(name)] for name in order]
                taken: list[Delivery] = []
                for look in looks:
                    taken = taken or self._take_now(look, now, limit)
                remaining = deadline - clock.monotonic()
                if taken or self._is_woken or remaining <= 0:
                    self._is_woken = False
                    return taken
                self._space.changed.wait(min(remaining, self._quiet_for(queues, now)))

    def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        self._space.check_process(BrokerRefused)
        with self._space.changed:
            refused = [one.delivery for one in settlements if not self._settle_one(one)]
            self._space.changed.notify_all()
            return refused

    def confirm(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        self._space.check_process(BrokerRefused)
        with self._space.changed:
            return [delivery for delivery in deliveries if self._held(delivery) is None]

    def note(self, delivery: Delivery, records: Sequence[Record]) -> bool:
        self._space.check_process(BrokerRefused)
        with self._space.changed:
            if self._held(delivery) is None:
                return False
            self._space.put(records)
            return True

    def commit(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        self._space.check_process(BrokerRefused)
        with self._space.changed:
            held = [self._held(delivery) for delivery in deliveries]
            for entry in held:
                if entry is not None:
                    entry.is_committed = True
            return [one for one, entry in zip(deliveries, held, strict=True) if entry is None]

    def bans(self) -> list[bytes]:
        self._space.check_process(BrokerRefused)
        with self._space.changed:
            return memory_revoking.bans(self._space)

    def wake(self) -> None:
        with self._space.changed:
            self._is_woken = True
            self._space.changed.notify_all()

    def close(self) -> None:
        self._space.check_process(BrokerRefused)
        with self._space.changed:
            self._end_leases()
            self._is_closed = True
            self._is_woken = True
            self._space.changed.notify_all()

    def _check_leases(self, queues: Sequence[Queue], now: float) -> None:
        """Housekeeping, then register if this owner is new.

        Raises:
            LeaseLost: it is not new, and one of its leases is gone; the others are ended too.
        """
        for queue in queues:
            # Who takes is alive: its own housekeeping must not end its lease.
            own = queue.leases.get(self._owner)
            if own is not None:
                own.expires_at = max(own.expires_at, now + self._lease / 2)
            _keep_house(queue, now, self._lease, self._max_deliveries)
        if self._is_closed:
            raise BrokerRefused(f"the consumer {self._owner!r} is closed")
        if not self._is_registered:
            for queue in queues:
                queue.leases[self._owner] = Lease(now + self._lease, self._lease)
            self._is_registered = True
        elif any(self._owner not in queue.leases for queue in queues):
            lost = self._owner
            self._end_leases()
            self._owners_lost += 1
            self._owner = f"{self._first_owner}.{self._owners_lost}"
            raise LeaseLost(
                f"the lease of {lost!r} ended: it was not renewed for {self._lease:g} s, "
                "and what it held has been given to others"
            )

    def _end_leases(self) -> None:
        for name in self._names if self._is_registered else ():
            queue = self._space.queue(name)
            for entry in _end_lease(queue, self._owner):
                _make_ready(queue, entry)
        self._is_registered = False

    def _take_now(self, queues: Sequence[Queue], now: float, limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        for queue in queues:
            _promote_due(self._space, queue, now)
        while len(taken) < limit:
            heaps = [heap for queue in queues if not queue.paused for heap in queue.ready.values() if heap]
            if not heaps:
                break
            heap = min(heaps, key=lambda heap: (-heap[0][1].priority, heap[0][0]))
            if taken and heap[0][1].is_suspect:
                break
            entry = heappop(heap)[1]
            if memory_revoking.catch(self._space.queue(entry.queue), entry):
                continue
            taken.append(self._hold(entry))
            if entry.is_suspect:
                break
        return taken

    def _hold(self, entry: Entry) -> Delivery:
        entry.owner, entry.fence = self._owner, self._space.next_position()
        self._space.queue(entry.queue).running[entry.fence] = entry
        return Delivery(
            entry.queue, entry.data, self._owner, entry.fence, len(entry.casualties), entry.verdict
        )

    def _held(self, delivery: Delivery) -> Entry | None:
        entry = self._space.queue(delivery.queue).running.get(delivery.fence)
        return entry if entry is not None and entry.owner == delivery.owner else None

    def _settle_one(self, settlement: Settlement) -> bool:
        entry = self._held(settlement.delivery)
        if entry is None:
            return False
        queue = self._space.queue(entry.queue)
        del queue.running[entry.fence]
        if settlement.records:
            self._space.put(settlement.records)
        for join in settlement.opens:
            self._space.open_join(join)
        for outgoing in (*settlement.sends, *self._space.arrive(settlement.arrivals, again=False)):
            _store(self._space, outgoing)
        for key in settlement.joins:
            self._space.joins.pop(key, None)
        match settlement.action:
            case Ack():
                return True
            case Release():
                _make_ready(queue, entry)
            case Replace(successor=successor):
                _store(self._space, successor)
            case PutBack(data=data, due_at=due_at):
                entry.data = data
                _delay(queue, entry, due_at)
            case Bury(reason=reason, detail=detail):
                _bury(queue, entry, reason, detail)
            case _:
                assert_never(settlement.action)
        return True

    def _quiet_for(self, queues: Sequence[Queue], now: float) -> float:
        """Seconds in which nothing happens by itself: no message falls due, no housekeeping is missed."""
        due = (queue.delayed[0][0] - now for queue in queues if queue.delayed and not queue.paused)
        return max(0.0, min(self._lease / 4, min(due, default=self._lease)))


def _store(space: Space, outgoing: Outgoing) -> None:
    queue = space.queue(outgoing.queue)
    queue.was_sent_to = True
    entry = Entry(outgoing.queue, outgoing.data, outgoing.priority, space.next_position())
    if outgoing.due_at is not None and outgoing.due_at > clock.now():
        heappush(queue.delayed, (outgoing.due_at, entry.position, entry))
    else:
        _make_ready(queue, entry)


def _make_ready(queue: Queue, entry: Entry) -> None:
    """In its place by position: at the head, for one that had been taken from there."""
    if entry.is_committed:
        entry.verdict, entry.is_committed = WORKER_LOST, False
    heappush(queue.ready.setdefault(entry.priority, []), (entry.position, entry))


def _promote_due(space: Space, queue: Queue, now: float) -> None:
    while queue.delayed and queue.delayed[0][0] <= now:
        entry = heappop(queue.delayed)[2]
        entry.position = space.next_position()
        _make_ready(queue, entry)


def _keep_house(queue: Queue, now: float, lease: float, max_deliveries: int) -> None:
    """End what has expired; where nobody has looked for half a lease, lengthen all instead (amnesty)."""
    last = queue.housekept_at
    queue.housekept_at = now
    memory_revoking.forget_expired(queue, now)
    if last is not None and not 0 <= now - last <= lease / 2:
        for owned in queue.leases.values():
            owned.expires_at = now + owned.lasts
        return
    for owner in [owner for owner, owned in queue.leases.items() if owned.expires_at <= now]:
        for entry in _end_lease(queue, owner):
            _count_crash(queue, entry, Casualty(LEASE_EXPIRED, now, owner), max_deliveries)


def _end_lease(queue: Queue, owner: str) -> list[Entry]:
    """What that owner held, which now belongs to nobody."""
    queue.leases.pop(owner, None)
    held = [entry for entry in queue.running.values() if entry.owner == owner]
    for entry in held:
        del queue.running[entry.fence]
    return held


def _count_crash(queue: Queue, entry: Entry, casualty: Casualty, max_deliveries: int) -> None:
    if entry.is_committed:
        entry.verdict, entry.is_committed = f"{WORKER_LOST}:{casualty.cause}", False
        _make_ready(queue, entry)
        return
    entry.casualties = (*entry.casualties, casualty)
    crashes, detail = len(entry.casualties), crash_detail(entry.casualties)
    if is_given_up(crashes, entry.verdict, max_deliveries):
        _bury(queue, entry, CRASHED, detail)
    elif crashes >= max_deliveries:
        entry.verdict = f"{CRASHED}:{detail}"
        _make_ready(queue, entry)
    elif pause := crash_pause(crashes):
        _delay(queue, entry, clock.now() + pause)
    else:
        _make_ready(queue, entry)


def _delay(queue: Queue, entry: Entry, due_at: float) -> None:
    heappush(queue.delayed, (due_at, entry.position, entry))


def _bury(queue: Queue, entry: Entry, reason: str, detail: str) -> None:
    """Garbage messages, and copies of one message, may share a key: the later one gets a key of its own."""
    key = entry.data[KEY]
    if key in queue.dead:
        key = os.urandom(16)
    letter = DeadLetter(queue.name, key, entry.data, reason, detail, clock.now(), entry.casualties)
    queue.dead[key] = (letter, entry)
