"""What `@app.task(...)` and the attributes of a task class accept: each option's name, type and range.

A misspelt name or a wrong value is an error at import time. Options of Celery's that have nothing to act on here
are accepted with a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Final, cast

from celeriac import plugins, send_options
from celeriac.exceptions import ImproperlyConfigured, SettingHasNoEffect, UnknownOption
from celeriac.setting_kinds import (
    BOOLEAN,
    DELIVERY_MODE,
    MAPPING,
    RATE,
    TEXT,
    Kind,
    NotOfKind,
    integer,
    seconds,
)


def _accept_classes(value: Any) -> tuple[type[BaseException], ...]:
    classes = tuple(cast("Any", value)) if isinstance(value, list | tuple | set | frozenset) else (value,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in classes):
        raise NotOfKind("")
    return classes


def _accept_backoff(value: Any) -> bool | float:
    if isinstance(value, bool):
        return value
    return cast("float", _SECONDS.accept(value))


def _accept_priority(value: Any) -> int:
    if not send_options.KINDS["priority"].fits(value):
        raise NotOfKind("")
    return cast("int", value)


def _accept_expires(value: Any) -> Any:
    if not send_options.KINDS["expires"].fits(value):
        raise NotOfKind("")
    return value


def _accept_queue(value: Any) -> str:
    if not send_options.KINDS["queue"].fits(value):
        raise NotOfKind("")
    return send_options.queue_name(value)


def _accept_exchange(value: Any) -> str:
    if not send_options.KINDS["exchange"].fits(value):
        raise NotOfKind("")
    return send_options.queue_name(value)


def _accept_key(value: Any) -> str:
    if not isinstance(value, str):
        raise NotOfKind("")
    return value


def _kind(expects: str, accept: Any) -> Kind:
    return Kind(expects, expects, accept, accept)


_SECONDS: Final = seconds()
_LIMIT: Final = seconds(0.01)
_CLASSES: Final = _kind("an exception class or a tuple of them", _accept_classes)

#: The options with a type of their own. None is a value of every one: it means "as the settings say".
KINDS: Final[Mapping[str, Kind]] = {
    "max_retries": integer(),
    "default_retry_delay": _SECONDS,
    "autoretry_for": _CLASSES,
    "dont_autoretry_for": _CLASSES,
    "retry_kwargs": MAPPING,
    "retry_backoff": _kind("True, False or a number of seconds", _accept_backoff),
    "retry_backoff_max": _SECONDS,
    "retry_jitter": BOOLEAN,
    "throws": _CLASSES,
    "acks_late": BOOLEAN,
    "acks_on_failure_or_timeout": BOOLEAN,
    "acks_on_failure": BOOLEAN,
    "acks_on_timeout": BOOLEAN,
    "reject_on_worker_lost": BOOLEAN,
    "ignore_result": BOOLEAN,
    "store_errors_even_if_ignored": BOOLEAN,
    "store_eager_result": BOOLEAN,
    "track_started": BOOLEAN,
    "trail": BOOLEAN,
    "typing": BOOLEAN,
    "expires": _kind("a number of seconds, a timedelta, or a datetime", _accept_expires),
    "priority": _kind(send_options.KINDS["priority"].expects, _accept_priority),
    "queue": _kind("the name of a queue", _accept_queue),
    "exchange": _kind("the name of an exchange", _accept_exchange),
    "exchange_type": TEXT,
    "routing_key": _kind("a text", _accept_key),
    "delivery_mode": DELIVERY_MODE,
    "serializer": TEXT,
    "compression": TEXT,
    "time_limit": _LIMIT,
    "soft_time_limit": _LIMIT,
    "rate_limit": RATE,
}

#: Celery's options that have nothing to act on here, and why.
WITHOUT_EFFECT: Final[Mapping[str, str]] = {
    "mandatory": "a message that is not stored is always an error",
    "immediate": "a message always waits for a worker",
    "send_events": "events are emitted for every task",
    "resultrepr_maxsize": "results are not printed into events",
    "backend": "an application has one result store",
    "Strategy": "there are no strategies",
    "Request": "there are no request classes",
}
#: Attributes of Task that are its own business.
_OURS: Final = frozenset({"app", "request", "is_async", "hooks", "target", "delay", "run"})


def check(options: Mapping[str, Any], base: type, task_name: str) -> dict[str, Any]:
    """The options as a task keeps them.

    Raises:
        UnknownOption: a name is neither an option nor an attribute of the base class.
        ImproperlyConfigured: a value is of the wrong type or out of range.
    """
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if (why := WITHOUT_EFFECT.get(name)) is not None:
            _warn(name, task_name, why)
        elif name in KINDS:
            checked[name] = _checked(name, value, task_name)
            if name == "rate_limit" and value is not None:
                _warn(name, task_name, "rate limits are not enforced in this version")
        elif name.startswith("_") or name in _OURS or not hasattr(base, name):
            known = [*KINDS, *(word for word in dir(base) if not word.startswith("_"))]
            raise UnknownOption(
                f"a task has no option {name!r} (task {task_name!r}).{plugins.nearest(name, known)}"
            )
        else:
            checked[name] = value
    return checked


def _warn(name: str, task_name: str, why: str) -> None:
    text = f"the task option {name!r} (of {task_name!r}) has no effect: {why}"
    warnings.warn(text, SettingHasNoEffect, stacklevel=6)


def _checked(name: str, value: Any, task_name: str) -> Any:
    if value is None:
        return () if KINDS[name] is _CLASSES else None
    try:
        return KINDS[name].accept(value)
    except NotOfKind as exc:
        raise ImproperlyConfigured(
            f"the option {name!r} of task {task_name!r} must be {KINDS[name].expects}, not {value!r}.{exc}"
        ) from None


def check_class(attributes: Mapping[str, Any], task_name: str) -> dict[str, Any]:
    """The same for what a task class says in its body: attributes with a known name are checked."""
    return {name: _checked(name, value, task_name) for name, value in attributes.items() if name in KINDS}
