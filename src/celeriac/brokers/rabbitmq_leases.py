"""Leases at RabbitMQ: who has one, when it is over, and what becomes of what a dead owner held.

The register `~leases` has a line for each owner, with a count that each renewal adds to. Nobody compares clocks: a
supervisor that has watched a count stand still for a whole lease, by its own clock and without a gap of half a lease,
ends it. It notes that first, with all that the messages are owed: whoever keeps house goes on where it was cut off.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from celeriac import clock
from celeriac.brokers.contract import Casualty
from celeriac.brokers.rabbitmq_fates import crashed, given_back
from celeriac.brokers.rabbitmq_names import Envelope, unwrap
from celeriac.brokers.rabbitmq_routes import Post, Routes
from celeriac.brokers.rabbitmq_seizing import Register, Seizure, seized
from celeriac.drivers.amqp import Connection
from celeriac.drivers.amqp_address import ServerError
from celeriac.exceptions import LeaseLost

LEASE_EXPIRED: Final = "lease expired"
#: AMQP's word for what is not there.
NOT_FOUND: Final = "404"
#: Seconds that housekeeping waits for a process that still has what its lease has ended for; it comes back later. It is
#: a sixth of the lease, within these bounds: those of the living are to be renewed meanwhile.
_PATIENCE: Final = 2.0
_LEAST_PATIENCE: Final = 0.5
#: Messages that one step moves.
_AT_ONCE: Final = 1_000


class _Occupied(Exception):
    """A holding that somebody has, or that the server cannot find its way to. Housekeeping comes back later."""


class Ending(msgspec.Struct, frozen=True):
    """What the messages of an ended lease are owed. `cause`: of a casualty for each; empty: only those named. What is
    of queues that are `gone` ends with them."""

    cause: str = ""
    casualties: dict[bytes, Casualty] = {}
    verdicts: dict[bytes, str] = {}
    gone: list[str] = []


class Lease(msgspec.Struct):
    """One owner's, who takes from these queues; it lasts so many seconds from each renewal."""

    lasts: float
    queues: list[str] = []
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
        #: When (monotonic) the holding of an owner was last waited for in vain.
        self._awaited: dict[str, float] = {}

    def enter(self, connection: Connection, owner: str, lasts: float, queues: Sequence[str]) -> None:
        """Begin a lease. Raises: LeaseLost: it has ended already."""
        with self._register.opened(connection) as draft:
            known = draft.value.get(owner)
            if known is not None and known.ending is not None:
                raise LeaseLost(f"the lease of {owner} has ended")
            draft.value[owner] = Lease(lasts, list(queues))
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
                    draft.value[owner].lasts = lease
                    draft.value[owner].count += 1
                    draft.is_changed = True
            for owner in self._run_out(draft.value, set(owners)):
                draft.value[owner].ending = Ending(LEASE_EXPIRED)
                draft.is_changed = True
            ended = {owner: one for owner, one in draft.value.items() if one.ending is not None}
        self._finish_all(connection, ended, max_deliveries)
        self._looked_at = clock.monotonic()
        return lost

    def _finish_all(self, connection: Connection, ended: Mapping[str, Lease], max_deliveries: int) -> None:
        """As many as can be, those first that were waited for in vain longest ago: one wait for each renewal."""
        self._awaited = {owner: at for owner, at in self._awaited.items() if owner in ended}
        for owner in sorted(ended, key=lambda one: self._awaited.get(one, 0.0)):
            try:
                self._finish(connection, owner, ended[owner], max_deliveries)
            except _Occupied:
                self._awaited[owner] = clock.monotonic()
                return

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
        try:
            return self._finish(connection, owner, lease, max_deliveries)
        except _Occupied:
            return 0

    def end_takers(self, connection: Connection, queues: Sequence[str]) -> None:
        """End the leases of all who take from these queues, which are deleted; nobody does who is alive, as a rule.

        What they hold of them ends, everything else goes back. Those that do not leave soon are ended by a renewal.
        """
        with self._register.opened(connection) as draft:
            begun: dict[str, Lease] = {}
            for owner, lease in draft.value.items():
                if gone := [queue for queue in queues if queue in lease.queues]:
                    if lease.ending is None:
                        lease.ending, begun[owner] = Ending(gone=gone), lease
                    else:
                        lease.ending = msgspec.structs.replace(lease.ending, gone=[*lease.ending.gone, *gone])
                    draft.is_changed = True
        for owner, lease in begun.items():
            # Nothing in it is a crash, for which the last number would be of importance.
            with contextlib.suppress(_Occupied):
                self._finish(connection, owner, lease, 1)

    def _finish(self, connection: Connection, owner: str, lease: Lease, max_deliveries: int) -> int:
        """Move what an owner held to where it belongs. Its process may be alive: it leaves when it sees our mark.

        Raises: _Occupied: it has not left in time.
        """
        holding = self._routes.names.holding(owner)
        timeout, ending = connection.timeout, lease.ending or Ending()
        connection.set_timeout(max(_LEAST_PATIENCE, min(_PATIENCE, lease.lasts / 6)))
        count = 0
        try:
            with seized(connection, holding, transactions=self._routes.transactions) as seizure:
                connection.set_timeout(timeout)
                count = self._empty(connection, seizure, owner, ending, max_deliveries)
        except ServerError as exc:
            if exc.code != NOT_FOUND:
                raise
        except TimeoutError as exc:
            if connection.blocked is not None:
                raise
            raise _Occupied from exc
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
            if envelope.queue in ending.gone:
                continue
            key = data[1:17]
            casualty = Casualty(ending.cause, now, owner) if ending.cause else ending.casualties.get(key)
            if key in ending.verdicts:
                judged = msgspec.structs.replace(envelope, verdict=ending.verdicts[key], committed=False)
                posts.append(given_back(judged, data))
            elif casualty is None:
                posts.append(given_back(envelope, data))
            else:
                posts.append(crashed(envelope, data, casualty, max_deliveries))
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
