"""Revocations and notices of the memory broker. The functions are called under the space's lock."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappush

from celeriac import clock
from celeriac.brokers.contract import HIGHEST_PRIORITY, MOST_BANS, REMEMBERED, REVOKED, Revocation
from celeriac.drivers.memory import Entry, Mailbox, Queue, Space
from celeriac.message import KEY


def revoke(queue: Queue, revocations: Sequence[Revocation], keep: float) -> list[bytes]:
    """Remember them, then judge those that wait. Returns the keys of these."""
    now = clock.now()
    forget_expired(queue, now)
    for one in revocations:
        _remember(queue, one, now + keep)
    wanted = {one.key for one in revocations}
    waiting = [entry for heap in queue.ready.values() for _, entry in heap]
    waiting += [entry for _, _, entry in queue.delayed]
    found = [entry for entry in waiting if entry.data[KEY] in wanted and _is_to_be_judged(entry)]
    _take_out(queue, set(found))
    for entry in found:
        _judge(queue, entry)
    while len(queue.revoked) > REMEMBERED:
        del queue.revoked[next(iter(queue.revoked))]
    keys = {entry.data[KEY] for entry in found}
    return [key for key in dict.fromkeys(one.key for one in revocations) if key in keys]


def revoked(queue: Queue) -> list[Revocation]:
    now = clock.now()
    return [one for until, one in queue.revoked.values() if until > now]


def ban(space: Space, ban: bytes, keep: float) -> None:
    until = clock.now() + keep
    space.bans[ban] = max(until, space.bans.get(ban, until))
    for surplus in bans(space)[:-MOST_BANS]:
        del space.bans[surplus]


def bans(space: Space) -> list[bytes]:
    now = clock.now()
    return [one for one, until in sorted(space.bans.items(), key=lambda item: item[1]) if until > now]


def find(queue: Queue, part: bytes) -> list[bytes]:
    places = [[entry for _, entry in sorted(heap, key=lambda row: -row[0])] for heap in queue.ready.values()]
    places.append([entry for _, _, entry in sorted(queue.delayed, key=lambda row: -row[0])])
    places.append(list(queue.running.values()))
    return [entry.data for place in places for entry in place if part in entry.data]


def catch(queue: Queue, entry: Entry) -> bool:
    """Whether this entry, just taken, is remembered as revoked. Then it waits again: it comes next, and alone."""
    key = entry.data[KEY]
    known = queue.revoked.get(key)
    if known is None:
        return False
    if entry.verdict is None and known[0] > clock.now():
        _judge(queue, entry)
        return True
    if _is_to_be_judged(entry):
        del queue.revoked[key]
    return False


def forget_expired(queue: Queue, now: float) -> None:
    """From the oldest on, up to one that holds still: this is done at every take, and nobody minds the others."""
    while queue.revoked:
        key, (until, _) = next(iter(queue.revoked.items()))
        if until > now:
            break
        del queue.revoked[key]


def _is_to_be_judged(entry: Entry) -> bool:
    """Not one whose end was decided otherwise; one that was judged already counts."""
    return entry.verdict is None or entry.verdict.startswith(REVOKED)


def _remember(queue: Queue, revocation: Revocation, until: float) -> None:
    known = queue.revoked.pop(revocation.key, None)
    if known is not None:
        until = max(until, known[0])
        if known[1].terminate and not revocation.terminate:
            revocation = known[1]
    queue.revoked[revocation.key] = (until, revocation)


def _take_out(queue: Queue, entries: set[Entry]) -> None:
    if not entries:
        return
    for heap in queue.ready.values():
        heap[:] = [row for row in heap if row[1] not in entries]
        heapify(heap)
    queue.delayed[:] = [row for row in queue.delayed if row[2] not in entries]
    heapify(queue.delayed)


def _judge(queue: Queue, entry: Entry) -> None:
    entry.verdict = entry.verdict or REVOKED
    entry.priority = HIGHEST_PRIORITY + 1
    heappush(queue.ready.setdefault(entry.priority, []), (entry.position, entry))
    queue.revoked.pop(entry.data[KEY], None)


def notify(space: Space, name: str, data: bytes) -> int:
    told = [box for box in space.mailboxes if name in box.names]
    for box in told:
        box.notices.append((name, data))
    space.changed.notify_all()
    return len(told)


class MemoryListener:
    """Hears notices of one space. See `Listener` for what each verb promises."""

    def __init__(self, space: Space, names: Sequence[str]) -> None:
        self._space = space
        self._box = Mailbox(frozenset(names))
        #: Both are read and written under the space's lock only.
        self._is_woken = False
        self._is_closed = False
        with space.changed:
            space.mailboxes.append(self._box)

    def wait(self, timeout: float) -> list[tuple[str, bytes]]:
        deadline = clock.monotonic() + timeout
        with self._space.changed:
            while not (self._box.notices or self._is_woken or self._is_closed):
                remaining = deadline - clock.monotonic()
                if remaining <= 0:
                    break
                self._space.changed.wait(remaining)
            self._is_woken = False
            heard, self._box.notices = self._box.notices, []
            return heard

    def wake(self) -> None:
        with self._space.changed:
            self._is_woken = True
            self._space.changed.notify_all()

    def close(self) -> None:
        with self._space.changed:
            if not self._is_closed:
                self._is_closed = True
                self._space.mailboxes.remove(self._box)
                self._space.changed.notify_all()
