"""Revoking tasks: the broker remembers it, the result store is told at once, and then the workers.

In this order, because only the first must hold: with all workers down, and for those that start later.
"""

from __future__ import annotations

import contextlib
import signal as signals
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

from celeriac import bans, clock, message, notices, routing, states, stored
from celeriac.backend import lifetime
from celeriac.brokers.abilities import Searchable
from celeriac.brokers.contract import REVOKED, Record, Revocation
from celeriac.exceptions import DecodeError, ImproperlyConfigured, TaskRevokedError
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
) -> list[Revoke]:
    """From the return of this call on these tasks begin no run. What waits ends as REVOKED: at once, where the broker
    is `Searchable`; else when its turn comes.

    Returns what the workers are to be told: of tasks that wait in no queue, and may be held or run; and which ended
    where they waited, of very many the last. `destination` limits which workers hear it, not what holds.

    Raises:
        BrokerUnavailable, BrokerRefused: some may be revoked; the same call again is safe.
        ResultStoreUnavailable: all are revoked, and whoever waits hears of it when a worker comes by.
    """
    keys = list(dict.fromkeys(message.key_of(task_id) for task_id in ids))
    keep: float = app.conf.worker_revoke_expires
    revocations = [Revocation(key, terminate, signal) for key in keys]
    waited: dict[bytes, None] = {}
    for queue in queues_of(app):
        waited |= dict.fromkeys(app.broker.revoke(queue, revocations, keep))
    tell_results(app, list(waited))
    elsewhere = [key for key in keys if key not in waited]
    ended = list(waited)[-notices.MOST_ENDED :]
    named = None if destination is None else tuple(destination)
    return [
        Revoke(keys=of, ended=was, keep=keep, terminate=terminate, signal=signal, destination=named)
        for of, was in zip_longest(_parts(elsewhere), _parts(ended), fillvalue=())
    ]


def _parts(keys: Sequence[bytes]) -> Iterator[tuple[bytes, ...]]:
    return (tuple(keys[at : at + notices.MOST_KEYS]) for at in range(0, len(keys), notices.MOST_KEYS))


def ban(app: Any, headers: Mapping[str, Any]) -> Banned:
    """Have the broker remember that tasks with one of these stamps are revoked, whenever they come.

    Returns what the workers are to be told.

    Raises:
        ImproperlyConfigured: no stamp is named.
    """
    if not headers:
        raise ImproperlyConfigured("revoke by which stamps? Name one at least, with its value or values")
    app.broker.ban(bans.encode(bans.of_headers(headers)), app.conf.worker_revoke_expires)
    return Banned()


def banned_ids(app: Any, headers: Mapping[str, Any]) -> list[str]:
    """The ids of the tasks with one of these stamps that wait, are delayed, or are held or run by a worker now; none
    where the broker is not `Searchable`."""
    if not isinstance(app.broker, Searchable):
        return []
    banned = bans.of_headers(headers)
    accept = app.conf.accept_content
    found: dict[str, None] = {}
    for queue in queues_of(app):
        for name in headers:
            for data in app.broker.find(queue, name.encode()):
                with contextlib.suppress(DecodeError):
                    decoded = message.decode(data, accept)
                    if bans.match(banned, decoded.options.stamps or {}):
                        found[decoded.id] = None
    return list(found)


def queues_of(app: Any) -> list[str]:
    """The queues in which a task of this application may be: those the broker knows, and those that are declared."""
    declared = routing.declared_queues(app.conf)
    return list(dict.fromkeys([*app.broker.queues(), app.conf.task_default_queue, *declared]))


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
