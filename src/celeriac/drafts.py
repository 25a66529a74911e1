"""What listeners may change of a message before it is written: `TaskSending` offers every call to them.

A draft shows the call in the parts in which Celery's `before_task_publish` shows it. What is changed in place has an
effect where a message of ours has such a thing; a change that can have none is warned of.
"""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable
from datetime import tzinfo
from typing import Any, Final

import msgspec

from celeriac import clock, send_options
from celeriac.events import BUS, TaskSending
from celeriac.exceptions import SettingHasNoEffect
from celeriac.logs import brief
from celeriac.message import Message, read_id
from celeriac.producer import Call
from celeriac.setting_kinds import PERSISTENT, TRANSIENT

#: Celery's headers about the call itself that may be changed; its other ones are shown only.
CHANGEABLE: Final = frozenset({"expires", "ignore_result", "shadow"})
#: The most characters of the printed arguments, as Celery's `argsrepr_maxsize`.
_SHOWN: Final = 1024


class Draft(msgspec.Struct):
    """A call in Celery's parts, each to be changed in place."""

    headers: dict[str, Any]
    properties: dict[str, Any]
    #: Positional arguments, those by name, and what follows the run.
    body: tuple[list[Any], dict[str, Any], dict[str, Any]]


def headers_of(message: Message) -> dict[str, Any]:
    """What Celery's message protocol says of a call in its headers."""
    options = message.options
    return {
        "lang": "py", "task": message.task, "id": message.id, "shadow": options.shadow,
        "eta": _iso(options.eta), "expires": _iso(options.expires),
        "group": _read(options.group), "group_index": options.group_index, "retries": options.retries,
        "timelimit": [options.time_limit, options.soft_time_limit],
        "root_id": _read(options.root) or message.id, "parent_id": _read(options.parent),
        "argsrepr": brief(tuple(message.args), _SHOWN), "kwargsrepr": brief(message.kwargs, _SHOWN),
        "origin": f"gen{os.getpid()}@{platform.node()}", "ignore_result": options.ignore_result,
        "replaced_task_nesting": options.replaced, "stamps": options.stamps or {},
        "stamped_headers": list(options.stamps) if options.stamps else None,
    }  # fmt: skip


def body_of(message: Message) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """The arguments and what follows the run, as the body of Celery's message has them."""
    options = message.options
    embedded = {
        "callbacks": options.links, "errbacks": options.errbacks, "chain": options.chain,
        "chord": options.chord and [_read(options.chord[0]), *options.chord[1:]],
    }  # fmt: skip
    return list(message.args), dict(message.kwargs), embedded


def offered(call: Call, zone: Callable[[], tzinfo]) -> Call:
    """The call as the listeners of `TaskSending` leave it.

    Raises: UnknownOption, ImproperlyConfigured: a property that they have set is none, or has a wrong value.
    """
    message, options = call.message, call.message.options
    own, custom = headers_of(message), dict(options.headers or {})
    properties = {
        **(options.properties or {}), "correlation_id": (options.properties or {}).get("correlation_id", message.id),
        "reply_to": options.reply_to, "priority": call.priority,
        "delivery_mode": TRANSIENT if options.transient else PERSISTENT,
    }  # fmt: skip
    draft = Draft(own | custom, dict(properties), body_of(message))
    BUS.emit(TaskSending(message.id, message.task, call.queue, draft))
    given = {name: value for name, value in draft.properties.items() if value != properties.get(name)}
    headers: dict[str, Any] = {}
    for name, value in draft.headers.items():
        if name in custom or name not in own:
            headers[name] = value
        elif value != own[name]:
            if name in CHANGEABLE:
                given[name] = value
            else:
                _warn(name)
    if headers != custom:
        options = msgspec.structs.replace(options, headers=headers or None)
    if given:
        options = send_options.resolve(send_options.check(given, message.task), options, zone)
    args, kwargs, _ = draft.body
    changed = msgspec.structs.replace(message, args=args, kwargs=kwargs, options=options)
    return msgspec.structs.replace(call, message=changed, priority=options.priority)


def _warn(name: str) -> None:
    warnings.warn(
        f"before_task_publish has changed the header {name!r}, which has no effect: give apply_async the option",
        SettingHasNoEffect,
        stacklevel=4,
    )


def _read(task_id: Any) -> str | None:
    return None if task_id is None else read_id(task_id)


def _iso(stamp: float | None) -> str | None:
    return None if stamp is None else clock.moment(stamp).isoformat()
