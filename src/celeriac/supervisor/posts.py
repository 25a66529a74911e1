"""The brokers of one worker: what it keeps at each of them, and at which it takes.

A worker with a list of brokers takes at one of them, its *post*, and so do all its children that take. The supervisor
alone decides where that is; a child is told when it is forked, and stays there for life. At the others the worker
renews what its earlier children still hold, hears notices, and moves what was sent there.

`choose` is the decision, a function of values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from celeriac import clock
from celeriac.brokers.relay import connect_all
from celeriac.events import BrokerChanged, emit
from celeriac.supervisor.condition import BrokerCondition
from celeriac.supervisor.leases import LeaseKeeper, Terms
from celeriac.supervisor.listener import NoticeListener
from celeriac.urls import split_urls
from celeriac.wire import Ready

#: Children that cannot take have the broker looked at so often (seconds).
_NUDGE: Final = 1.0


class Sight(NamedTuple):
    """For how many seconds a broker has answered, or has not; both None: it has not been heard of yet."""

    well: float | None = None
    ill: float | None = None


def choose(current: int, sights: Sequence[Sight], patience: float) -> int:
    """Where to take: where we do, until an earlier one has been back for `patience` seconds, or this one has been
    away for as long and another answers; then at the first that does."""
    for index, sight in enumerate(sights[:current]):
        if sight.well is not None and sight.well >= patience:
            return index
    ill = sights[current].ill
    if ill is None or ill < patience:
        return current
    return next((index for index, sight in enumerate(sights) if sight.well is not None), current)


class Post(NamedTuple):
    """What a worker has at one broker. `listener`: None without remote control."""

    keeper: LeaseKeeper
    listener: NoticeListener | None


class Posts:
    """All posts of a worker, and which of them is its own now. Used by the main loop only."""

    def __init__(self, ready: Ready, wake: Callable[[], None]) -> None:
        """`wake` is called, from other threads, when there is something to look at.

        Raises: ImproperlyConfigured: see `brokers.connect` and `relay.connect_all`.
        """
        urls = split_urls(ready.broker_url) or (ready.broker_url,)
        self._patience = ready.broker_patience
        self._revoke_keep = ready.revoke_keep
        self._posts = [
            Post(
                LeaseKeeper(broker, _terms(ready), wake),
                NoticeListener(broker, ready.queues, ready.hostname, wake) if ready.remote_control else None,
            )
            for broker in connect_all([(url, ready.broker_options) for url in dict.fromkeys(urls)])
        ]
        #: The number of the broker in the list.
        self.current = 0
        #: By post, since when it has answered, and since when it has not (monotonic).
        self._well_since: list[float | None] = [None] * len(self._posts)
        self._ill_since: list[float | None] = [None] * len(self._posts)
        self._nudged_at = 0.0

    def start(self) -> None:
        """Begin to keep leases, and to listen."""
        for keeper, listener in self._posts:
            keeper.start()
            if listener is not None:
                listener.start()
        self._relay()

    @property
    def keeper(self) -> LeaseKeeper:
        """That of the broker where the worker takes."""
        return self._posts[self.current].keeper

    def keeper_of(self, post: int) -> LeaseKeeper:
        """That of the broker of this number."""
        return self._posts[post].keeper

    @property
    def listeners(self) -> list[NoticeListener]:
        """Those at all brokers, if there is remote control."""
        return [post.listener for post in self._posts if post.listener is not None]

    @property
    def has_listened(self) -> bool:
        """Whether it is heard what workers are told where this one takes, or was tried to be."""
        listener = self._posts[self.current].listener
        return listener is None or listener.has_begun

    def ended(self) -> list[bytes]:
        """The keys of tasks that were revoked where they waited, as was heard from any broker."""
        return [key for listener in self.listeners for key in listener.ended()]

    @property
    def silent(self) -> frozenset[int]:
        """The posts whose brokers do not answer now."""
        return frozenset(index for index, post in enumerate(self._posts) if post.keeper.condition().is_silent)

    @property
    def are_given_up(self) -> bool:
        """Whether every broker has been away for too long."""
        return all(post.keeper.is_given_up for post in self._posts)

    def look(self, no_takes: float | None) -> None:
        """Go to another post where that is due. `no_takes`: for how many seconds no child has been able to take."""
        if len(self._posts) == 1:
            return
        now = clock.monotonic()
        if no_takes is not None and now >= self._nudged_at + _NUDGE:
            # Who takes sees first that its broker is gone.
            self._nudged_at = now
            self.keeper.look_soon()
        sights = [self._sight(index, now) for index in range(len(self._posts))]
        chosen = choose(self.current, sights, self._patience)
        if chosen == self.current:
            return
        away, old = sights[self.current].ill, self.keeper
        self.current = chosen
        reason = (
            "an earlier one of the list is back" if away is None else f"that has been away for {away:.0f} s"
        )
        emit(BrokerChanged(old.broker.place, self.keeper.broker.place, reason))
        self._relay()

    def deafen(self, timeout: float) -> None:
        """Hear no more notices, after `timeout` seconds at the latest."""
        until = clock.monotonic() + timeout
        for listener in self.listeners:
            listener.close(max(0.0, until - clock.monotonic()))

    def close(self, timeout: float) -> bool:
        """Stop, when all leases of dead children are ended, or after `timeout` seconds. Whether they are."""
        until = clock.monotonic() + timeout
        for keeper, _ in self._posts:
            keeper.finish()
        return all([keeper.close(max(0.0, until - clock.monotonic())) for keeper, _ in self._posts])

    def _sight(self, index: int, now: float) -> Sight:
        condition = self._posts[index].keeper.condition()
        is_well = _is_well(condition)
        is_ill = condition.is_silent
        well_since = (self._well_since[index] or now) if is_well else None
        ill_since = (self._ill_since[index] or now) if is_ill else None
        self._well_since[index], self._ill_since[index] = well_since, ill_since
        return Sight(
            None if well_since is None else now - well_since,
            None if ill_since is None else max(now - ill_since, condition.away or 0.0),
        )

    def _relay(self) -> None:
        """Messages go to where we take, from later ones of the list only: no two workers move them to and fro."""
        for index, post in enumerate(self._posts):
            target = self.keeper.broker if index > self.current else None
            post.keeper.relay_to(target, self._revoke_keep)


def _is_well(condition: BrokerCondition) -> bool:
    return condition.renewed is not None and not condition.is_silent


def _terms(ready: Ready) -> Terms:
    return Terms(
        ready.queues,
        ready.lease,
        ready.max_deliveries,
        ready.broker_lost_timeout,
        ready.broker_retries,
        ready.broker_wait_at_start,
        ready.dead_letter_max,
        ready.dead_letter_expires,
        ready.broadcasts,
    )
