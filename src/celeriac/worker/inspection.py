"""What a worker's processes reply to questions: a child of the tasks that it holds, a template of the application.

Where there is no template, a child replies for it.

In Celery's words where it has some. Called beside running tasks, so it waits for nothing, and shows arguments that are
long or strange as short texts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import msgspec

from celeriac import clock, message, notices
from celeriac.board import RunSnapshot
from celeriac.brokers.contract import Delivery
from celeriac.control import calls
from celeriac.logs import brief
from celeriac.wire import Question
from celeriac.worker.executor import Workbench

#: The most characters of a text that stands for what is long or strange.
_SHOWN: Final = 200
#: So many tasks of a kind one child tells of.
_MOST: Final = 500
#: What `registered` tells of a task where nothing is asked for, as with Celery.
_DEFAULT_ITEMS: Final = ("exchange", "routing_key", "rate_limit")


def of_child(question: Question, bench: Workbench, waiting: Collection[Delivery]) -> bytes:
    """What runs here and what waits, those of the ids in `items` or all; or how many have run, by name."""
    if question.about in notices.ABOUT_APP:
        return of_app(bench.app, question)
    if question.about == "counts":
        return msgspec.msgpack.encode({"counts": dict(bench.counts), "ahead": bench.batch.ahead})
    keys = {message.key_of(one) for one in question.items}
    room = [question.room]
    running = [
        _running(run, bench, room) for run in bench.board.read().runs[:_MOST] if not keys or run.key in keys
    ]
    held = [one for one in _copied(waiting) if not keys or one.key in keys]
    return msgspec.msgpack.encode(
        {"active": running, "reserved": [_waiting(one, bench, room) for one in held[:_MOST]]}
    )


def of_app(app: Any, question: Question) -> bytes:
    """Settings, tasks, or a report; or which error has prevented that."""
    try:
        return _of_app(app, question)
    except Exception as exc:  # noqa: BLE001 - attributes of tasks and texts of settings may be user code
        return msgspec.msgpack.encode({"error": type(exc).__name__})


def _of_app(app: Any, question: Question) -> bytes:
    match question.about:
        case "conf":
            return _shown(app.conf.table(with_defaults="defaults" in question.items))
        case "registered":
            return msgspec.msgpack.encode(_registered(app, question.items or _DEFAULT_ITEMS))
        case _:
            return msgspec.msgpack.encode(app.bugreport())


def _copied(waiting: Collection[Delivery]) -> list[Delivery]:
    """What another thread takes from meanwhile."""
    while True:
        try:
            return list(waiting)
        except RuntimeError:  # it has changed in the middle
            continue


def _running(run: RunSnapshot, bench: Workbench, room: list[int]) -> dict[str, Any]:
    request = bench.runs.get(run.slot)
    if request is None or request.message is None or request.delivery is None or request.key != run.key:
        return calls.unread(message.id_of(run.key), run.name)
    told = calls.described(request.message, request.delivery.queue, request.delivery.crashes)
    told["time_start"] = clock.now() - (clock.monotonic() - run.started)
    told["acknowledged"] = not request.task_object.acks_late
    told["worker_pid"] = bench.pid
    return _fitted(told, room)


def _waiting(delivery: Delivery, bench: Workbench, room: list[int]) -> dict[str, Any]:
    accept = bench.app.conf.accept_content
    return _fitted(calls.waiting(delivery.data, delivery.queue, accept, delivery.crashes), room)


def _fitted(told: dict[str, Any], room: list[int]) -> dict[str, Any]:
    """Its arguments as they can be sent, as long as there is room."""
    for part in ("args", "kwargs"):
        if told[part] is not None:
            told[part] = _plain(told[part]) if room[0] > 0 else None
            room[0] -= len(told[part] or b"")
    return told


def _plain(value: Any) -> msgspec.Raw:
    """The value, where it is short and plain; else a text."""
    try:
        data = _shown(value)
    except (TypeError, ValueError, OverflowError, RecursionError, RuntimeError, msgspec.MsgspecError):
        # No key of a mapping can be that, or it has been changed in the middle.
        data = b""
    return msgspec.Raw(data if 0 < len(data) <= calls.LONG else msgspec.msgpack.encode(brief(value, _SHOWN)))


def _shown(value: Any) -> bytes:
    return msgspec.msgpack.encode(value, enc_hook=lambda strange: brief(strange, _SHOWN))


def _registered(app: Any, items: Iterable[str]) -> list[str]:
    """Each task with what is asked for, as far as that is set. Of modules that are not imported yet: the names."""
    tasks: Mapping[str, Any] = dict(app.tasks)
    names = {*tasks, *(app.modules.names() if app.modules is not None else ())}
    return [
        _line(name, tasks.get(name), items)
        for name in sorted(names) if not name.startswith(("celery.", "celeriac."))
    ]  # fmt: skip


def _line(name: str, task: Any, items: Iterable[str]) -> str:
    known = {item: name if item == "name" else getattr(task, item, None) for item in items}
    told = [f"{item}={brief(value, _SHOWN) if not isinstance(value, str) else value}" for item, value in known.items()
            if value is not None]  # fmt: skip
    return f"{name} [{' '.join(told)}]" if told else name
