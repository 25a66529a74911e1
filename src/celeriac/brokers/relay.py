"""What the brokers of a list are to each other: messages can be moved from one to another, crate by crate.

See `abilities.Movable`. Who moves, when, and what is told of it are the callers' matters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

from celeriac import brokers
from celeriac.brokers.abilities import Crate, Movable
from celeriac.brokers.contract import Broker
from celeriac.exceptions import ImproperlyConfigured, OperationalError

#: Messages in one crate.
CRATE: Final = 500


class SamePlace(ImproperlyConfigured):
    """Source and target are one, by two names. What was packed is back in its queue."""


class TargetAway(OperationalError):
    """Where the messages are to go does not answer, or refuses them. What is packed for it waits in its crate."""


def connect_all(places: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Broker]:
    """The brokers of a list.

    Raises: ImproperlyConfigured: two are one, or they are such that messages cannot be moved from one to the other.
    """
    found = [brokers.connect(url, options) for url, options in places]
    if len(found) == 1:
        return found
    for index, broker in enumerate(found):
        if not isinstance(broker, Movable):
            raise ImproperlyConfigured(
                f"'broker_url' gives several URLs, and {broker.place} cannot be one of several: what is sent to one "
                "during an outage of another must be moved, which such a broker lacks"
            )
        if any(broker.place == other.place for other in found[:index]):
            raise ImproperlyConfigured(f"'broker_url' gives {broker.place} twice")
    return found


def relay(source: Any, target: Any, queue: str, keep: float) -> Crate | None:
    """Move one crate of the queue, after what is revoked of it. None: there is nothing to move.

    A crate that others have packed for another place is left as it is, and returned: its `target` says where it goes.

    Raises: TargetAway, SamePlace; what the source raises.
    """
    with _away(target):
        # What is packed for a target that is away waits there for nobody: it is asked first.
        target.pack(queue, "", 0)
    crate: Crate | None = source.pack(queue, target.place, CRATE)
    if crate is None or crate.target != target.place:
        return crate
    with _away(target):
        there: Crate | None = target.pack(queue, "", 0)
    if there is not None and there.series == crate.series:
        source.unpack(crate)
        source.discard(crate)
        raise SamePlace(
            f"{source.place} and {target.place} are one place: the list of brokers names it twice"
        )
    revoked, bans = source.revoked(queue), source.bans()
    with _away(target):
        if revoked:
            target.revoke(queue, revoked, keep)
        for ban in bans:
            target.ban(ban, keep)
        target.unpack(crate)
    source.discard(crate)
    return crate


@contextlib.contextmanager
def _away(target: Any) -> Generator[None]:
    try:
        yield
    except OperationalError as exc:
        raise TargetAway(f"{target.place}: {exc}") from exc
