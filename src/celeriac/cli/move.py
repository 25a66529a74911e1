"""Move what waits, is scheduled or is dead to another broker: each message as it is, and each of them once.

    celeriac move --from redis://old --to postgresql://user@new/shop
    celeriac -A proj move --from sqlite:///queues.sqlite --queue mail,reports

Without --to they go to the broker of the application, or of -b. If the command is ended half-way, by whatever, the same
command goes on where that stopped. What runs is left where it is, and told. Workers may run on both sides.

--give-back puts back what a move took that will never be finished, because its target is gone for good.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from celeriac import brokers, urls, wire
from celeriac.brokers.abilities import Crate, Movable, Searchable
from celeriac.brokers.contract import QueueStats
from celeriac.cli import parsing, show
from celeriac.cli.opening import open_app, open_broker
from celeriac.exceptions import ImproperlyConfigured
from celeriac.plugins import nearest

#: Messages in one crate.
_CRATE: Final = 500
_COLUMNS: Final = ("queue", "moved", "left", "running", "there")


class _Moved(msgspec.Struct):
    """How many messages of one queue have been moved."""

    ready: int = 0
    delayed: int = 0
    dead: int = 0

    @property
    def total(self) -> int:
        return self.ready + self.delayed + self.dead

    def add(self, crate: Crate) -> None:
        dead = sum(one.died_at is not None for one in crate.parcels)
        delayed = sum(one.due_at is not None for one in crate.parcels)
        self.dead += dead
        self.delayed += delayed
        self.ready += len(crate.parcels) - delayed - dead


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `celeriac move`."""
    add = parser.add_argument
    add("--from", dest="source", metavar="URL", help="where the messages are")
    add("--to", dest="target", metavar="URL", help="where they are to be; default: the application's broker")
    add("-Q", "--queue", type=parsing.names, default=(), metavar="NAMES", help="these queues; default: all")
    add("--give-back", action="store_true", help="put back what an unfinished move took; move nothing")


def run(args: argparse.Namespace) -> int:
    """Move, then count both sides."""
    if not args.source:
        raise ImproperlyConfigured("where are the messages? Say --from URL")
    source = _movable(_connect(args.source))
    names = _queues(source, args.queue)
    if args.give_back:
        return _give_back(source, names, args)
    app = open_app(args) if args.target else open_broker(args)
    target = _movable(brokers.connect(args.target) if args.target else app.broker)
    if source.place == target.place:
        raise ImproperlyConfigured(f"--from and --to are the same place: {source.place}")
    for name in names:
        _check_crate(source.pack(name, target.place, 0), source, target)
    stats = [source.stats(name) for name in names]
    with show.progress("Moved", sum(map(_waiting, stats)), quiet=args.quiet) as advance:
        moved = [
            _move(source, target, name, keep=app.conf.worker_revoke_expires, advance=advance)
            for name in names
        ]
    _tell(source, target, dict(zip(names, moved, strict=True)), args)
    return wire.EXIT_OK


def _connect(url: str) -> Any:
    """The broker there; it is not made for being asked."""
    parsed = urls.parse(url)
    if parsed.scheme == "sqlite" and not os.path.exists(parsed.path[1:]):
        raise ImproperlyConfigured(f"--from {url}: there is no such file")
    return brokers.connect(url)


def _movable(broker: Any) -> Any:
    if not isinstance(broker, Movable):
        raise ImproperlyConfigured(f"{broker.place}: messages cannot be moved from or to such a broker")
    return broker


def _queues(source: Any, wanted: Sequence[str]) -> Sequence[str]:
    known: list[str] = source.queues()
    for name in wanted:
        if name not in known:
            raise ImproperlyConfigured(f"{source.place} has no queue {name!r}.{nearest(name, known)}")
    return list(dict.fromkeys(wanted)) or known


def _check_crate(crate: Crate | None, source: Any, target: Any) -> None:
    if crate is not None and crate.target != target.place:
        count = show.count(len(crate.parcels), "message")
        raise ImproperlyConfigured(
            f"{count} of {crate.queue} are on their way from {source.place} to {crate.target}, where they may be "
            "already: finish that move first. If that place is gone for good, run this with --give-back"
        )


def _move(source: Any, target: Any, queue: str, *, keep: float, advance: Callable[[int], None]) -> _Moved:
    """Move all of a queue. A kill anywhere leaves a crate that the same steps bring to its end."""
    moved = _Moved()
    # Before the messages, which find them there; and behind them, with those of the meantime.
    _copy_revocations(source, target, queue, keep)
    while crate := source.pack(queue, target.place, _CRATE):
        _check_crate(crate, source, target)
        target.unpack(crate)
        source.discard(crate)
        moved.add(crate)
        advance(len(crate.parcels))
    _copy_revocations(source, target, queue, keep)
    return moved


def _copy_revocations(source: Any, target: Any, queue: str, keep: float) -> None:
    if revoked := source.revoked(queue):
        target.revoke(queue, revoked, keep)
    for ban in source.bans():
        target.ban(ban, keep)


def _waiting(stats: QueueStats) -> int:
    return stats.ready + (stats.delayed or 0) + stats.dead


def _tell(source: Any, target: Any, moved: dict[str, _Moved], args: argparse.Namespace) -> None:
    left = {name: source.stats(name) for name in moved}
    there = {name: target.stats(name) for name in moved}
    if not args.quiet:
        rows = [
            (name, one.total, _waiting(left[name]), left[name].running, _waiting(there[name]))
            for name, one in moved.items()
        ]
        show.table(_COLUMNS, rows, numeric=_COLUMNS[1:], color=not args.no_color)
    ready, delayed, dead = (
        sum(getattr(one, kind) for one in moved.values()) for kind in ("ready", "delayed", "dead")
    )
    running = sum(one.running or 0 for one in left.values())
    waiting = sum(map(_waiting, left.values()))
    if running or waiting:
        print(
            f"Left at {source.place}: {show.count(waiting, 'message')} sent or given back meanwhile, and {running:,} "
            "that run. Run this again when they have ended.",
            file=sys.stderr,
        )
    if not isinstance(source, Searchable):
        print(
            f"What is scheduled at {source.place} cannot be looked at, and stays there until it is due. Leave a worker "
            "there, or run this again then.",
            file=sys.stderr,
        )
    if not args.quiet:
        print(
            f"Moved {show.count(ready + delayed + dead, 'message')} ({ready:,} ready, {delayed:,} scheduled, {dead:,} "
            f"dead) from {source.place}, which has {waiting:,} now, to {target.place}, which has "
            f"{sum(map(_waiting, there.values())):,}."
        )


def _give_back(source: Any, names: Sequence[str], args: argparse.Namespace) -> int:
    count = 0
    for name in names:
        if (crate := source.pack(name, "", 0)) is not None:
            source.unpack(crate)
            source.discard(crate)
            count += len(crate.parcels)
    if not args.quiet:
        print(f"Gave back {show.count(count, 'message')} at {source.place}.")
    return wire.EXIT_OK
