"""What `apply_async` and its kin accept beside arguments: each option's name, type and range, checked once.

A misspelt name or a wrong value is an error in the caller, before anything is sent. Options of Celery's that have
nothing to act on here are accepted with a warning.

Pure functions of values: nothing here sends.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, tzinfo
from typing import Any, Final, NamedTuple, cast

from celeriac import clock, codecs, context, message, plugins
from celeriac.exceptions import ImproperlyConfigured, SettingHasNoEffect, UnknownOption
from celeriac.message import Options
from celeriac.setting_kinds import DELIVERY_MODE, DELIVERY_MODES, TRANSIENT, is_mode

HIGHEST_PRIORITY: Final = 9


class InvalidOption(ImproperlyConfigured, ValueError):
    """A send option has the wrong type or is out of range."""


class _Kind(NamedTuple):
    fits: Callable[[Any], bool]
    expects: str


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_duration(value: Any) -> bool:
    return _is_number(value) or isinstance(value, timedelta)


def _is_limit(value: Any) -> bool:
    return _is_duration(value) and clock.seconds(value) > 0


def _is_moment(value: Any) -> bool:
    if isinstance(value, str):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            return False
        return True
    return isinstance(value, datetime)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_expiry(value: Any) -> bool:
    return _is_duration(value) or _is_moment(value)


def _is_priority(value: Any) -> bool:
    return _is_whole(value) and value <= HIGHEST_PRIORITY


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_queue(value: Any) -> bool:
    return _is_text(value) or _is_text(getattr(value, "name", None))


def _is_exchange(value: Any) -> bool:
    return isinstance(value, str) or isinstance(getattr(value, "name", None), str)


def _is_str(value: Any) -> bool:
    return isinstance(value, str)


def _is_signature(value: Any) -> bool:
    return isinstance(value, Mapping) and "task" in value


def _is_link(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_signature(item) for item in cast("list[Any]", value))
    return _is_signature(value)


def _is_seat(value: Any) -> bool:
    return _is_list(value) and len(value) == 2 and _is_whole(value[1])


_TEXT: Final = _Kind(_is_text, "a text that is not empty")
_BOOL: Final = _Kind(_is_bool, "True or False")
_WHOLE: Final = _Kind(_is_whole, "a whole number (0 or more)")
_MAPPING: Final = _Kind(_is_mapping, "a dict")
_LIST: Final = _Kind(_is_list, "a list")
_LINK: Final = _Kind(_is_link, "a signature (`task.s(...)`) or a list of them")
_SEAT: Final = _Kind(_is_seat, "the id of a join and a place; a chord is written chord(header, body)")
_LIMIT: Final = _Kind(_is_limit, "a number of seconds or a timedelta, more than 0")
_QUEUE: Final = _Kind(_is_queue, "the name of a queue")

KINDS: Final[Mapping[str, _Kind]] = {
    "countdown": _Kind(_is_duration, "a number of seconds or a timedelta"),
    "eta": _Kind(_is_moment, "a datetime, or its text in ISO 8601"),
    "expires": _Kind(_is_expiry,
                     "a number of seconds, a timedelta, or a datetime"),
    "queue": _QUEUE,
    "exchange": _Kind(_is_exchange, "the name of an exchange"),
    "exchange_type": _TEXT,
    "routing_key": _Kind(_is_str, "a text"),
    "delivery_mode": _Kind(is_mode, DELIVERY_MODE.expects),
    "priority": _Kind(_is_priority,
                      f"a whole number from 0 to {HIGHEST_PRIORITY}; a higher one runs first"),
    "task_id": _TEXT,
    "headers": _MAPPING,
    "retry": _BOOL,
    "retry_policy": _MAPPING,
    "ignore_result": _BOOL,
    "serializer": _TEXT,
    "compression": _TEXT,
    "time_limit": _LIMIT,
    "soft_time_limit": _LIMIT,
    "link": _LINK,
    "link_error": _LINK,
    "shadow": _TEXT,
    "reply_to": _TEXT,
    "group_id": _TEXT,
    "group_index": _WHOLE,
    "root_id": _TEXT,
    "parent_id": _TEXT,
    "retries": _WHOLE,
    "chain": _LIST,
    "chord": _SEAT,
    "join": _LIST,
    "add_to_parent": _BOOL,
    "stamped_headers": _LIST,
    "stamps": _MAPPING,
    "replaced_task_nesting": _WHOLE,
}  # fmt: skip

#: Celery's options that have nothing to act on here, and what to do instead.
WITHOUT_EFFECT: Final[Mapping[str, str]] = {
    "connection": "connections are kept by the application",
    "producer": "connections are kept by the application",
    "publisher": "connections are kept by the application",
    "router": "routes are set with task_routes",
    "route_name": "routes are set with task_routes",
    "result_cls": "results are AsyncResult",
    "declare": "queues need no declaration",
    "timeout": "broker_publish_timeout bounds every send",
    "confirm_timeout": "broker_publish_timeout bounds every send",
    "event_dispatcher": "events are emitted by the application",
    "origin": "the message does not name its sender",
    "argsrepr": "messages carry no printed copy of their arguments",
    "kwargsrepr": "messages carry no printed copy of their arguments",
    "mandatory": "a message that is not stored is always an error",
    "immediate": "a message always waits for a worker",
    **dict.fromkeys(("content_type", "content_encoding"), "use serializer= and compression="),
    "expiration": "use expires=",
}  # fmt: skip

#: AMQP's words about the message itself: a task finds them in `request.properties`.
PROPERTIES: Final = frozenset({"app_id", "user_id", "type", "timestamp", "message_id", "correlation_id"})


def check(options: Mapping[str, Any], task_name: str) -> dict[str, Any]:
    """The options that were given and have an effect. One that is None counts as not given.

    Raises:
        UnknownOption: a name is none of `apply_async`'s; the nearest right one is in the text.
        ImproperlyConfigured: a value is of the wrong type or out of range, or two contradict each other.
    """
    given: dict[str, Any] = {}
    stamps = set(cast("list[str]", options.get("stamped_headers") or ()))
    for name, value in options.items():
        kind = KINDS.get(name)
        if kind is None and name not in stamps and name not in PROPERTIES:
            if is_database(value):
                raise InvalidOption(
                    f"{name!r} is for a single task or a chain (sending task {task_name!r}): "
                    "send other workflows when the transaction has committed"
                )
            _check_name(name, task_name)
        elif value is not None:
            if kind is not None and not kind.fits(value):
                raise InvalidOption(
                    f"{name!r} must be {kind.expects}, not {value!r} (sending task {task_name!r})"
                )
            given[name] = value
    if "countdown" in given and "eta" in given:
        raise InvalidOption(f"'countdown' and 'eta' were both given (sending task {task_name!r}): give one")
    return given


def is_database(connection: Any) -> bool:
    """Whether it is a connection, or session, of a database's driver or framework."""
    return any(base.__module__.partition(".")[0] in _DATABASES for base in type(connection).__mro__)


_DATABASES: Final = frozenset({"asyncpg", "django", "psycopg", "psycopg2", "sqlalchemy", "sqlite3"})


def check_limits(soft: Any, hard: Any, task_name: str) -> None:
    """Raises: ImproperlyConfigured: the soft time limit lies behind the hard one."""
    if soft is not None and hard is not None and clock.seconds(soft) > clock.seconds(hard):
        raise InvalidOption(
            f"soft_time_limit must be less than or equal to time_limit, not {soft!r} and {hard!r} "
            f"(task {task_name!r})"
        )


def _check_name(name: str, task_name: str) -> None:
    why = WITHOUT_EFFECT.get(name)
    if why is None:
        raise UnknownOption(
            f"apply_async has no option {name!r} (sending task {task_name!r}).{plugins.nearest(name, KINDS)}"
        )
    warnings.warn(f"the send option {name!r} has no effect: {why}", SettingHasNoEffect, stacklevel=6)


def queue_name(queue: Any) -> str:
    """The name of a queue, or of an exchange, that may be given as an object with a name."""
    return queue if isinstance(queue, str) else cast("str", queue.name)


def resolve(given: Mapping[str, Any], base: Options, zone: Callable[[], tzinfo]) -> Options:
    """The options of a message: what was given over what `base` has. Naive times are of `zone`."""
    fields: dict[str, Any] = {}
    for name, value in given.items():
        field = _FIELDS.get(name)
        if field is not None:
            fields[field] = value
    if "time_limit" in given:
        fields["time_limit"] = clock.seconds(given["time_limit"])
    if "soft_time_limit" in given:
        fields["soft_time_limit"] = clock.seconds(given["soft_time_limit"])
    if "countdown" in given:
        fields["eta"] = clock.now() + clock.seconds(given["countdown"])
    if "eta" in given:
        fields["eta"] = _timestamp(given["eta"], zone)
    if "expires" in given:
        expires = given["expires"]
        is_span = _is_duration(expires)
        fields["expires"] = clock.now() + clock.seconds(expires) if is_span else _timestamp(expires, zone)
    if "serializer" in given:
        fields["serializer"] = codecs.codec_name(given["serializer"])
    if "delivery_mode" in given:
        fields["transient"] = DELIVERY_MODES[given["delivery_mode"]] == TRANSIENT
    for name, field in (("link", "links"), ("link_error", "errbacks")):
        if name in given:
            fields[field] = _compact_list(given[name])
    if "chain" in given:
        fields["chain"] = _compact_list(given["chain"])
    for name, field in (("root_id", "root"), ("parent_id", "parent"), ("group_id", "group")):
        if name in given:
            fields[field] = message.wire_id(given[name])
    for name in ("chord", "join"):
        if name in given:
            join_id, *more = given[name]
            fields[name] = [message.wire_id(join_id) if isinstance(join_id, str) else join_id, *more]
    if "stamped_headers" in given:
        fields["stamps"] = {name: given[name] for name in given["stamped_headers"] if name in given}
    if properties := {name: given[name] for name in PROPERTIES & given.keys()}:
        fields["properties"] = {**(base.properties or {}), **properties}
    return Options(**{name: getattr(base, name) for name in Options.__struct_fields__} | fields)


_FIELDS: Final[Mapping[str, str]] = {
    "priority": "priority", "headers": "headers", "ignore_result": "ignore_result", "compression": "compression",
    "shadow": "shadow", "reply_to": "reply_to", "group_index": "group_index",
    "retries": "retries", "stamps": "stamps", "replaced_task_nesting": "replaced",
}  # fmt: skip


def _timestamp(moment: Any, zone: Callable[[], tzinfo]) -> float:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone())
    return clock.timestamp(moment)


def inherit(given: dict[str, Any], *, with_priority: bool) -> dict[str, Any]:
    """The options, with what a task that is sent from inside a task has from it. Headers and stamps are its own."""
    request = context.worker_request()
    if request is None or request.message is None:
        return given
    inherited: dict[str, Any] = {"root_id": request.root_id, "parent_id": request.id}
    if with_priority and request.options.priority:
        inherited["priority"] = request.options.priority
    return inherited | given


def _compact_list(signatures: Any) -> list[dict[str, Any]]:
    if isinstance(signatures, Mapping):
        signatures = [signatures]
    return [compact(signature) for signature in signatures]


def compact(signature: Mapping[str, Any]) -> dict[str, Any]:
    """A signature as it travels: without what is empty."""
    return {name: value for name, value in signature.items() if value or name == "task"}
