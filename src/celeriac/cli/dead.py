"""Dead letters: messages that will not run again unless somebody says so.

    celeriac -A proj dead list --queue mail --since 2h
    celeriac -A proj dead show 0199d7c4-6f0e-7d8c-9a51-1f2f4a1c8f6b
    celeriac -A proj dead replay --task proj.tasks.send --error ConnectionError
    celeriac -A proj dead drop --reason unknown --since 7d -f

Ids and filters choose; filters are joined by "and". replay and drop ask first, unless ids are given or -f is.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from celeriac import clock, message, wire
from celeriac.brokers.contract import DeadLetter
from celeriac.cli import parsing, show
from celeriac.cli.opening import check_queues, open_broker
from celeriac.context import Request
from celeriac.exceptions import DecodeError, ImproperlyConfigured
from celeriac.workflow.follow import abandoned

_PAGE: Final = 1000
_COLUMNS: Final = ("id", "queue", "task", "reason", "died", "detail")
_DETAIL: Final = 80
_BYTES_SHOWN: Final = 200


class Wanted(msgspec.Struct, frozen=True):
    """Which dead letters: every condition that is given must hold."""

    queues: tuple[str, ...]
    keys: tuple[bytes, ...] = ()
    task: str | None = None
    error: str | None = None
    reason: str | None = None
    since: float | None = None

    def accepts(self, letter: DeadLetter) -> bool:
        """Whether the letter is one of them."""
        return (
            (self.since is None or letter.died_at >= self.since)
            and (self.reason is None or self.reason.lower() in letter.reason.lower())
            and (self.error is None or self.error.lower() in f"{letter.reason} {letter.detail}".lower())
            and (self.task is None or message.peek(letter.data)[1] == self.task)
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `celeriac dead`."""
    add = parser.add_argument
    actions = parsing.one_of(*_ACTIONS)
    add("action", type=actions, metavar="list|show|replay|drop", help="what to do with them")
    add("ids", nargs="*", metavar="ID", help="these, as `dead list` names them")
    add(
        "-Q", "--queue", type=parsing.names, default=(), metavar="NAMES", help="of these queues; default: all"
    )
    add("--task", metavar="NAME", help="calls of this task")
    add("--error", metavar="TEXT", help="with this text in the reason or the detail")
    add("--reason", metavar="TEXT", help="with this text in the reason")
    add("--since", type=show.read_duration, metavar="TIME", help="that died in the last 90s, 15m, 2h, 7d")
    add("--limit", type=int, default=100, metavar="NUMBER", help="list or show at most so many; 0: all")
    add("-f", "--force", action="store_true", help="do not ask")
    add("--json", action="store_true", help="list or show as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    with open_broker(args) as app:
        check_queues(app, args.queue)
        wanted = Wanted(
            queues=tuple(args.queue or app.broker.queues()),
            keys=tuple(key for text in args.ids for key in _keys_of(text)),
            task=args.task,
            error=args.error,
            reason=args.reason,
            since=None if args.since is None else clock.now() - args.since,
        )
        return _ACTIONS[args.action](app, wanted, args)


def find(broker: Any, wanted: Wanted) -> Iterator[DeadLetter]:
    """The dead letters that are wanted, queue by queue, oldest first, read page by page."""
    for queue in wanted.queues:
        if wanted.keys:
            for key in wanted.keys:
                letter = broker.find_dead(queue, key)
                if letter is not None and wanted.accepts(letter):
                    yield letter
            continue
        after: bytes | None = None
        while page := broker.dead(queue, after=after, limit=_PAGE):
            yield from filter(wanted.accepts, page)
            after = page[-1].key


def _list(app: Any, wanted: Wanted, args: argparse.Namespace) -> int:
    letters, is_more = _first(app, wanted, args.limit)
    if args.json:
        show.json([_fields(letter) for letter in letters])
        return wire.EXIT_OK
    rows = [
        (
            letter_id(letter), letter.queue, message.peek(letter.data)[1], letter.reason,
            f"{show.age(letter.died_at)} ago", letter.detail.strip().rpartition("\n")[2][:_DETAIL],
        )
        for letter in letters
    ]  # fmt: skip
    show.table(_COLUMNS, rows, color=not args.no_color)
    if is_more:
        print(f"These are the first {args.limit}; --limit 0 lists all.", file=sys.stderr)
    for queue in wanted.queues if not wanted.keys else ():
        if evicted := app.broker.stats(queue).evicted:
            print(f"{show.count(evicted, 'older dead letter')} of {queue} were deleted.", file=sys.stderr)
    return wire.EXIT_OK


def _show(app: Any, wanted: Wanted, args: argparse.Namespace) -> int:
    letters, _ = _first(app, wanted, args.limit)
    if not letters:
        raise parsing.CommandFailed("there is no such dead letter", wire.EXIT_FAILURE)
    accept = app.conf.accept_content
    if args.json:
        show.json([_fields(letter) | _content(letter, accept) for letter in letters])
        return wire.EXIT_OK
    for place, letter in enumerate(letters):
        if place:
            print()
        for name, value in (_fields(letter) | _content(letter, accept)).items():
            if name == "casualties":
                for one in letter.casualties:
                    memory = f", {one.memory:,} KiB" if one.memory else ""
                    print(f"{'crash:':<12}{show.moment(one.at)}  {one.cause}  {one.worker}{memory}")
            elif value not in (None, ""):
                print(f"{name + ':':<12}{value}")
    return wire.EXIT_OK


def _replay(app: Any, wanted: Wanted, args: argparse.Namespace) -> int:
    def replay(queue: str, keys: list[bytes]) -> int:
        _forget_failures(app, queue, keys)
        return int(app.broker.replay(queue, keys))

    return _settle(app, wanted, args, replay, ("Send", "again", "Replayed"))


def _forget_failures(app: Any, queue: str, keys: list[bytes]) -> None:
    """Forget that the later steps of chains will never run; and that these failed, where the broker does not do so."""
    forgotten: list[bytes] = []
    for letter in filter(None, (app.broker.find_dead(queue, key) for key in keys)):
        if app.backend.place != app.broker.place:
            forgotten.append(letter.data[message.KEY])
        with contextlib.suppress(DecodeError):
            forgotten += abandoned(Request(message.decode(letter.data, app.conf.accept_content)))
    if forgotten:
        app.backend.forget(forgotten)


def _drop(app: Any, wanted: Wanted, args: argparse.Namespace) -> int:
    return _settle(app, wanted, args, app.broker.drop, ("Delete", "for good", "Dropped"))


def _settle(
    app: Any, wanted: Wanted, args: argparse.Namespace, verb: Any, words: tuple[str, str, str]
) -> int:
    # All keys first, 16 bytes each: pages would shift under a reader who takes letters away.
    keys: dict[str, list[bytes]] = {}
    for letter in find(app.broker, wanted):
        keys.setdefault(letter.queue, []).append(letter.key)
    total = sum(map(len, keys.values()))
    if not total and args.ids:
        raise parsing.CommandFailed("there is no such dead letter", wire.EXIT_FAILURE)
    command, how, done_word = words
    if total and not (args.force or args.ids):
        listed = ", ".join(f"{queue} ({len(found):,})" for queue, found in keys.items())
        if not parsing.ask(f"{command} {show.count(total, 'dead letter')} {how}: {listed}?"):
            print("Nothing was changed.", file=sys.stderr)
            return wire.EXIT_FAILURE
    done = 0
    with show.progress(done_word, total, quiet=args.quiet) as advance:
        for queue, found in keys.items():
            for at in range(0, len(found), _PAGE):
                page = found[at : at + _PAGE]
                done += verb(queue, page)
                advance(len(page))
    if not args.quiet:
        print(f"{done_word} {show.count(done, 'dead letter')}.")
    return wire.EXIT_OK


_ACTIONS: Final = {"list": _list, "show": _show, "replay": _replay, "drop": _drop}


def _first(app: Any, wanted: Wanted, limit: int) -> tuple[list[DeadLetter], bool]:
    """The first letters, at most `limit` of them, and whether there are more."""
    letters: list[DeadLetter] = []
    for letter in find(app.broker, wanted):
        if limit and len(letters) == limit:
            return letters, True
        letters.append(letter)
    return letters, False


def letter_id(letter: DeadLetter) -> str:
    """The name by which a command finds the letter: its task's id, or its key where that is another."""
    task_id, _ = message.peek(letter.data)
    return task_id if task_id and message.key_of(task_id) == letter.key else f"key:{letter.key.hex()}"


def _keys_of(text: str) -> tuple[bytes, ...]:
    if not text.startswith("key:"):
        return (message.key_of(text),)
    try:
        return (bytes.fromhex(text.removeprefix("key:")),)
    except ValueError:
        raise ImproperlyConfigured(f"{text!r} is not the id of a dead letter: copy it from a list") from None


def _fields(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter_id(letter), "queue": letter.queue, "task": message.peek(letter.data)[1],
        "reason": letter.reason, "detail": letter.detail.strip(), "died_at": show.moment(letter.died_at),
        "casualties": [
            {"cause": one.cause, "at": show.moment(one.at), "worker": one.worker, "memory": one.memory}
            for one in letter.casualties
        ],
    }  # fmt: skip


def _content(letter: DeadLetter, accept: Any) -> dict[str, Any]:
    """The call that the message is, or its bytes where it cannot be read."""
    try:
        call = message.decode(letter.data, accept)
    except DecodeError as exc:
        return {"unreadable": str(exc), "bytes": repr(letter.data[:_BYTES_SHOWN])}
    made_at = show.moment(message.created_at(call.key))
    return {
        "sent_at": made_at,
        "args": list(call.args),
        "kwargs": call.kwargs,
        "retries": call.options.retries,
    }
