"""Leases at RabbitMQ: who has one, when it is over, and what becomes of what a dead owner held.

The register `~leases` has a line for each owner, with a count that each renewal adds to. Nobody compares clocks: a
supervisor that has watched a count stand still for a whole lease, by its own clock and without a gap of half a lease,
ends it. It notes that first, with all that the messages are owed: whoever keeps house goes on where it was cut off.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from celeriac import clock
from celeriac.brokers.contract import (
    CRASHED,
    Bury,
    Casualty,
    crash_detail,
    crash_pause,
    is_given_up,
)
from celeriac.brokers.rabbitmq_names import DEAD, FIRST, Envelope, unwrap, wrap
from celeriac.brokers.rabbitmq_routes import Post, Routes
from celeriac.brokers.rabbitmq_seizing import Register, Seizure, seized
from celeriac.drivers.amqp import Connection
from celeriac.drivers.amqp_address import ServerError
from celeriac.exceptions import LeaseLost

LEASE_EXPIRED: Final = "lease expired"
#: The verdict on a message whose run had begun and must not be repeated.
WORKER_LOST: Final = "worker_lost"
#: AMQP's word for what is not there.
NOT_FOUND: Final = "404"
#: Seconds that housekeeping waits for a process that still has what its lease has ended for; it comes back later.
_PATIENCE: Final = 2.0
#: Messages that one step moves.
_AT_ONCE: Final = 1_000


class Ending(msgspec.Struct, frozen=True):
    """What the messages of an ended lease are owed. `cause`: of a casualty for each; empty: only those named."""

    cause: str = ""
    casualties: dict[bytes, Casualty] = {}
    verdicts: dict[bytes, str] = {}


class Lease(msgspec.Struct):
    """One owner's, which lasts so many seconds from each renewal."""

    lasts: float
    count: int = 0
    ending: Ending | None = None


class Leases:
    """See the module. For the supervisor's thread; `enter` and `leave` for any."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._register = Register(routes.names.leases, routes.kind, dict[str, Lease], {})
        #: Each owner's count, and since when (monotonic) it has stood there.
        self._seen: dict[str, tuple[int, float]] = {}
        self._looked_at = 0.0

    def enter(self, connection: Connection, owner: str, lasts: float) -> None:
        """Begin a lease. Raises: LeaseLost: it has ended already."""
        with self._register.opened(connection) as draft:
            known = draft.value.get(owner)
            if known is not None and known.ending is not None:
                raise LeaseLost(f"the lease of {owner} has ended")
            draft.value[owner] = Lease(lasts)
            draft.is_changed = True

    def leave(self, connection: Connection, owner: str) -> None:
        """The lease is over, and nothing is left to do for it."""
        with self._register.opened(connection) as draft:
            if draft.value.pop(owner, None) is not None:
                draft.is_changed = True

    def owners(self, connection: Connection) -> list[str]:
        """Who has a lease, or had one that is not done with."""
        return list(self._register.read(connection))

    def renew(
        self, connection: Connection, owners: Sequence[str], lease: float, max_deliveries: int
    ) -> list[str]:
        """Returns the owners that are lost."""
        with self._register.opened(connection) as draft:
            lost = [one for one in owners if one not in draft.value or draft.value[one].ending is not None]
            for owner in owners:
                if owner not in lost:
                    draft.value[owner] = Lease(lease, draft.value[owner].count + 1)
                    draft.is_changed = True
            for owner in self._run_out(draft.value, set(owners)):
                draft.value[owner].ending = Ending(LEASE_EXPIRED)
                draft.is_changed = True
            endings = {owner: one.ending for owner, one in draft.value.items() if one.ending is not None}
        for owner, ending in endings.items():
            self._finish(connection, owner, ending, max_deliveries)
        self._looked_at = clock.monotonic()
        return lost

    def _run_out(self, leases: Mapping[str, Lease], renewed: Iterable[str]) -> list[str]:
        now = clock.monotonic()
        silence = now - self._looked_at
        seen, self._seen = self._seen, {}
        over: list[str] = []
        for owner, lease in leases.items():
            count, since = seen.get(owner, (-1, now))
            if count != lease.count or silence > lease.lasts / 2 or owner in renewed:
                since = now
            elif lease.ending is None and now - since >= lease.lasts:
                over.append(owner)
            self._seen[owner] = (lease.count, since)
        return over

    def surrender(self, connection: Connection, owner: str, ending: Ending, max_deliveries: int) -> int:
        """End a lease now. Returns how many messages it held."""
        with self._register.opened(connection) as draft:
            lease = draft.value.get(owner)
            if lease is None:
                return 0
            if lease.ending is None:
                lease.ending = ending
                draft.is_changed = True
            ending = lease.ending
        return self._finish(connection, owner, ending, max_deliveries)

    def _finish(self, connection: Connection, owner: str, ending: Ending, max_deliveries: int) -> int:
        """Move what an owner held to where it belongs. Its process may be alive: it leaves when it sees our mark."""
        holding = self._routes.names.holding(owner)
        timeout = connection.timeout
        connection.set_timeout(_PATIENCE)
        count = 0
        try:
            with seized(connection, holding, transactions=self._routes.transactions) as seizure:
                connection.set_timeout(timeout)
                count = self._empty(connection, seizure, owner, ending, max_deliveries)
        except ServerError as exc:
            if exc.code != NOT_FOUND:
                raise
        except TimeoutError:
            return 0  # the next housekeeping tries again
        finally:
            connection.set_timeout(timeout)
        self.leave(connection, owner)
        return count

    def _empty(
        self, connection: Connection, seizure: Seizure, owner: str, ending: Ending, max_deliveries: int
    ) -> int:
        now = clock.now()
        held: dict[int, tuple[Envelope, bytes]] = {}
        acks: list[int] = []
        for message in seizure.messages:
            envelope, data = unwrap(message.body)
            held[envelope.fence] = (envelope, data)  # of two copies the later one counts
            acks.append(message.tag)
        posts: list[Post] = []
        for envelope, data in held.values():
            key = data[1:17]
            casualty = Casualty(ending.cause, now, owner) if ending.cause else ending.casualties.get(key)
            if key in ending.verdicts:
                judged = msgspec.structs.replace(envelope, verdict=ending.verdicts[key], committed=False)
                posts.append(given_back(judged, data))
            elif casualty is None:
                posts.append(given_back(envelope, data))
            else:
                posts.append(_crashed(envelope, data, casualty, max_deliveries))
        channel = seizure.channel
        if len(acks) != len(posts):
            self._routes.store(connection, channel, posts, acks)
        else:
            for at in range(0, len(acks), _AT_ONCE):
                end = at + _AT_ONCE
                self._routes.store(connection, channel, posts[at:end], acks[at:end])
        channel.delete(seizure.queue)
        channel.gather()
        return len(held)


def given_back(envelope: Envelope, data: bytes) -> Post:
    """A message that goes before all others, and whose end is decided if its run had begun for good."""
    if envelope.committed:
        envelope = msgspec.structs.replace(envelope, verdict=WORKER_LOST, committed=False)
    return Post(envelope.queue, FIRST, wrap(data, envelope))


def buried(envelope: Envelope, data: bytes, bury: Bury) -> Post:
    """A dead letter."""
    letter = msgspec.structs.replace(
        envelope, verdict=None, committed=False, reason=bury.reason, detail=bury.detail, died_at=clock.now(),
        letter=os.urandom(16),
    )  # fmt: skip
    return Post(envelope.queue, DEAD, wrap(data, letter))


def _crashed(envelope: Envelope, data: bytes, casualty: Casualty, max_deliveries: int) -> Post:
    if envelope.committed:
        verdict = f"{WORKER_LOST}:{casualty.cause}"
        return given_back(msgspec.structs.replace(envelope, verdict=verdict, committed=False), data)
    crashes = (*envelope.crashes, casualty)
    envelope = msgspec.structs.replace(envelope, crashes=crashes)
    detail = crash_detail(crashes)
    if is_given_up(len(crashes), envelope.verdict, max_deliveries):
        return buried(envelope, data, Bury(CRASHED, detail))
    if len(crashes) >= max_deliveries:
        return given_back(msgspec.structs.replace(envelope, verdict=f"{CRASHED}:{detail}"), data)
    pause = crash_pause(len(crashes))
    back = given_back(envelope, data)
    return back._replace(due_at=clock.now() + pause) if pause else back
