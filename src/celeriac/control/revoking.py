"""Revoking tasks: the broker remembers it, the result store is told at once, and then the workers.

In this order, because only the first must hold: with all workers down, and for those that start later.
"""

from __future__ import annotations

import contextlib
import signal as signals
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

from celeriac import bans, clock, message, notices, routing, states, stored
from celeriac.backend import lifetime
from celeriac.brokers.abilities import Overseeing, Searchable
from celeriac.brokers.contract import REMEMBERED, REVOKED, Broker, Record, Revocation
from celeriac.exceptions import DecodeError, ImproperlyConfigured, OperationalError, TaskRevokedError
from celeriac.notices import Banned, Revoke
from celeriac.stored import Stored

#: The signal that ends a run at once. Every other one is the same: the run is told, and has its grace.
_AT_ONCE: Final = "SIGKILL"
_NAMES: Final = frozenset(one.name for one in signals.Signals)


def revoke(
    app: Any,
    ids: Iterable[str],
    *,
    terminate: bool = False,
    signal: str = "",
    destination: Sequence[str] | None = None,
) -> tuple[list[Revoke], OperationalError | None]:
    """From the return of this call on these tasks begin no run. What waits ends as REVOKED: at once, where the broker
    is `Searchable`; else when its turn comes.

    Returns what the workers are to be told: of tasks that wait in no queue, and may be held or run; and which ended
    where they waited, of very many the last. `destination` limits which workers hear it, not what holds. Beside it what
    is to be raised behind that: of several brokers one does not know of it.

    Raises:
        BrokerUnavailable, BrokerRefused: some may be revoked; the same call again is safe.
        ResultStoreUnavailable: all are revoked, and whoever waits hears of it when a worker comes by.
    """
    keys = list(dict.fromkeys(message.key_of(task_id) for task_id in ids))
    keep: float = app.conf.worker_revoke_expires
    revocations = [Revocation(key, terminate, signal) for key in keys]
    waited: dict[bytes, None] = {}

    def revoke_at(broker: Broker) -> None:
        for queue in queues_of(app, broker):
            waited.update(dict.fromkeys(broker.revoke(queue, revocations, keep)))

    failure = everywhere(app, revoke_at)
    elsewhere = [key for key in keys if key not in waited]
    tell_results(app, [*waited, *(_unheard_of(app, elsewhere) if failure is None else ())])
    ended = list(waited)[-notices.MOST_ENDED :]
    named = None if destination is None else tuple(destination)
    words = [
        Revoke(keys=of, ended=was, keep=keep, terminate=terminate, signal=signal, destination=named)
        for of, was in zip_longest(_parts(elsewhere), _parts(ended), fillvalue=())
    ]
    return words, failure


def _unheard_of(app: Any, keys: Sequence[bytes]) -> list[bytes]:
    """Of revoked tasks that wait nowhere those that nobody holds, and of which no result is stored: they were lost, or
    are yet to be sent, as the next steps of a chain. Asked when every broker remembers them: none begins a run now.

    None where results are not kept as a rule: of what has run there is nothing either.
    """
    if not 0 < len(keys) <= REMEMBERED or app.conf.task_ignore_result or app.backend.place == "disabled":
        return []
    held: set[bytes] = set()
    blind: list[Broker] = []

    def look(broker: Broker) -> None:
        if not isinstance(broker, Overseeing):
            blind.append(broker)
            return
        for queue in queues_of(app, broker):
            held.update(broker.held(queue, keys))

    if everywhere(app, look) is not None or blind:
        return []
    free = [key for key in keys if key not in held]
    known = {key for part in _parts(free) for key in app.backend.get(part)}
    return [key for key in free if key not in known]


def _parts(keys: Sequence[bytes]) -> Iterator[tuple[bytes, ...]]:
    return (tuple(keys[at : at + notices.MOST_KEYS]) for at in range(0, len(keys), notices.MOST_KEYS))


def everywhere(app: Any, tell: Callable[[Broker], None]) -> OperationalError | None:
    """Tell the broker; of several, all that answer. Returns why one could not be told, where others were.

    Raises: as `tell`, where nobody was told.
    """
    failures: list[OperationalError] = []
    places = app.openings.brokers
    for broker in places:
        try:
            tell(broker)
        except OperationalError as exc:
            failures.append(exc)
    if len(failures) == len(places):
        raise failures[0]
    if not failures:
        return None
    return type(failures[0])(f"told to other brokers of the list, and not to one: {failures[0]}")


def ban(app: Any, headers: Mapping[str, Any]) -> tuple[Banned, OperationalError | None]:
    """Have the broker remember that tasks with one of these stamps are revoked, whenever they come.

    Returns what the workers are to be told, and what is to be raised behind that, as `revoke`.

    Raises:
        ImproperlyConfigured: no stamp is named.
    """
    if not headers:
        raise ImproperlyConfigured("revoke by which stamps? Name one at least, with its value or values")
    data, keep = bans.encode(bans.of_headers(headers)), app.conf.worker_revoke_expires
    return Banned(), everywhere(app, lambda broker: broker.ban(data, keep))


def banned_ids(app: Any, headers: Mapping[str, Any]) -> list[str]:
    """The ids of the tasks with one of these stamps that wait, are delayed, or are held or run by a worker now; none
    where the broker is not `Searchable`."""
    banned = bans.of_headers(headers)
    accept = app.conf.accept_content
    found: dict[str, None] = {}

    def find(broker: Broker) -> None:
        if not isinstance(broker, Searchable):
            return
        for queue in queues_of(app, broker):
            for name in headers:
                for data in broker.find(queue, name.encode()):
                    with contextlib.suppress(DecodeError):
                        decoded = message.decode(data, accept)
                        if bans.match(banned, decoded.options.stamps or {}):
                            found[decoded.id] = None

    # One that is away is told of by what follows this.
    everywhere(app, find)
    return list(found)


def queues_of(app: Any, broker: Broker) -> list[str]:
    """The queues in which a task of this application may be: those the broker knows, and those that are declared."""
    declared = routing.declared_queues(app.conf)
    return list(dict.fromkeys([*broker.queues(), app.conf.task_default_queue, *declared]))


def signal_of(signal: str | int | None) -> str:
    """The signal as a revocation has it: that which ends a run at once, or none.

    Raises:
        ImproperlyConfigured: there is no such signal.
    """
    try:
        name = signals.Signals(signal).name if isinstance(signal, int) else (signal or "SIGTERM").upper()
    except ValueError:
        name = str(signal)
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name not in _NAMES:
        raise ImproperlyConfigured(
            f"there is no signal {signal!r}. SIGTERM tells the run and ends it after worker_revoke_grace seconds; "
            "SIGKILL ends it at once"
        )
    return name if name == _AT_ONCE else ""


def tell_results(app: Any, keys: Sequence[bytes]) -> None:
    """Store the end of tasks that waited: nobody runs them any more. A worker stores the same when it takes them."""
    conf = app.conf
    if conf.task_ignore_result and not conf.task_store_errors_even_if_ignored:
        return
    record = Stored(states.REVOKED, TaskRevokedError(REVOKED), clock.now())
    accept = conf.result_accept_content or conf.accept_content
    data = stored.encode(record, conf.result_serializer, accept, conf.result_compression)
    ttl = lifetime(conf, states.REVOKED)
    for start in range(0, len(keys), notices.MOST_KEYS):
        part = keys[start : start + notices.MOST_KEYS]
        app.backend.put([Record(key, data, ttl) for key in part])
