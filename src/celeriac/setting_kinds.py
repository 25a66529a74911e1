"""What the value of a setting may be, and how it is read from text (environment variable, command line).

A kind answers with the value as the rest of the package uses it (seconds as float, names as tuple), or raises
`NotOfKind`. It does not know which setting it checks: `settings.Setting` adds the name and the source.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import timedelta, tzinfo
from types import MappingProxyType
from typing import Any, Final, TypeGuard, cast

import msgspec

from celeriac.plugins import nearest

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")
_WORDS: Mapping[str, bool] = MappingProxyType({word: word in _TRUE for word in (*_TRUE, *_FALSE)})
_RATE = re.compile(r"\d+(\.\d+)?(/[smh])?", re.ASCII)
_STRATEGIES = ("round-robin", "shuffle")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


class NotOfKind(ValueError):
    """A value that this setting cannot have; the text may hold a hint."""


class Kind(msgspec.Struct, frozen=True):
    """One sort of value: what it expects in words, and the two ways in."""

    name: str
    expects: str
    accept: Callable[[Any], Any]
    read: Callable[[str], Any]
    choices: tuple[str, ...] = ()


def is_mapping(value: Any) -> TypeGuard[Mapping[Any, Any]]:
    """Whether it has keys and values."""
    return isinstance(value, Mapping)


def integer(minimum: int = 0, *words: str) -> Kind:
    """A whole number, or one of the words."""

    def accept(value: Any) -> Any:
        if isinstance(value, str) and value in words:
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            raise NotOfKind(_number_hint(value) + (nearest(value, words) if isinstance(value, str) else ""))
        return _not_below(value, minimum)

    expects = " or ".join([f"a whole number ({minimum} or more)", *map(repr, words)])
    name = " or ".join(["integer", *map(repr, words)])
    return Kind(name, expects, accept, lambda text: accept(text if text in words else _parsed(int, text)))


def number(minimum: float = 0.0) -> Kind:
    """A number, whole or not."""

    def accept(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise NotOfKind(_number_hint(value))
        found: float = _not_below(value, minimum)
        return found

    return Kind(
        "number", f"a number ({minimum:g} or more)", accept, lambda text: accept(_parsed(float, text))
    )


def seconds(minimum: float = 0.0) -> Kind:
    """A length of time: seconds, or a timedelta; kept as float seconds."""

    def accept(value: Any) -> float:
        if isinstance(value, timedelta):
            value = value.total_seconds()
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise NotOfKind(_number_hint(value))
        return float(_not_below(value, minimum))

    expects = f"a number of seconds or a timedelta ({minimum:g} or more)"
    return Kind("seconds", expects, accept, lambda text: accept(_parsed(float, text)))


def one_of(*choices: str) -> Kind:
    """One of a few words."""

    def accept(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise NotOfKind(nearest(value, choices) if isinstance(value, str) else "")
        return value

    return Kind("choice", "one of " + ", ".join(map(repr, choices)), accept, accept, choices)


def _accept_boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        is_quoted = isinstance(value, str) and value.lower() in _WORDS
        raise NotOfKind(" Write it without quotes." if is_quoted else "")
    return value


def _read_boolean(text: str) -> bool:
    if text.lower() not in _WORDS:
        raise NotOfKind(" As text it is 1, true, yes or on; or 0, false, no or off.")
    return _WORDS[text.lower()]


def _accept_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise NotOfKind("")
    return value


def _accept_password(value: Any) -> str | bytes:
    return value if isinstance(value, bytes) else _accept_text(value)


def _accept_path(value: Any) -> str:
    shown = value.__fspath__() if hasattr(value, "__fspath__") else value
    return _accept_text(shown)


def _accept_url(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ";".join(_accept_text(url) for url in cast("list[Any]", value))
    return _accept_text(value)


def _accept_names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and not re.search(r"[,\s]", value):
        value = [value] if value else []
    if not isinstance(value, list | tuple | set | frozenset):
        raise NotOfKind(" Several names are a list." if isinstance(value, str) else "")
    names = cast("list[Any]", value)
    return tuple(
        _accept_text(name) for name in (sorted(names) if isinstance(value, set | frozenset) else names)
    )


def _read_names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _accept_mapping(value: Any) -> dict[Any, Any]:
    if not is_mapping(value):
        raise NotOfKind("")
    return dict(value)


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise NotOfKind(" As text it is written in JSON.") from None


def _accept_ssl(value: Any) -> bool | dict[Any, Any]:
    return value if isinstance(value, bool) else _accept_mapping(value)


def _read_ssl(text: str) -> bool | dict[Any, Any]:
    return _WORDS[text.lower()] if text.lower() in _WORDS else _accept_ssl(_read_json(text))


def _accept_rate(value: Any) -> Any:
    if isinstance(value, str) and _RATE.fullmatch(value):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotOfKind("")
    return _not_below(value, 0)


def _accept_strategy(value: Any) -> Any:
    if callable(value):
        return value
    if not isinstance(value, str) or value not in _STRATEGIES:
        raise NotOfKind(nearest(value, _STRATEGIES) if isinstance(value, str) else "")
    return value


def _accept_level(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return _not_below(value, 0)
    if not isinstance(value, str) or value.upper() not in _LEVELS:
        raise NotOfKind(nearest(value.upper(), _LEVELS) if isinstance(value, str) else "")
    return value.upper()


def is_mode(value: Any) -> bool:
    """Whether it says in which mode a message is kept."""
    return isinstance(value, int | str) and not isinstance(value, bool) and value in DELIVERY_MODES


def _accept_mode(value: Any) -> int:
    if not is_mode(value):
        raise NotOfKind(nearest(value, ["persistent", "transient"]) if isinstance(value, str) else "")
    return DELIVERY_MODES[value]


def _accept_timezone(value: Any) -> Any:
    return value if isinstance(value, tzinfo) else _accept_text(value)


def _accept_anything(value: Any) -> Any:
    return value


def _not_below(value: Any, minimum: float) -> Any:
    if value < minimum:
        raise NotOfKind("")
    return value


def _parsed(read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except ValueError:
        return text


def _number_hint(value: Any) -> str:
    is_quoted_number = isinstance(value, str) and isinstance(_parsed(float, value), float)
    return " Write it without quotes." if is_quoted_number else ""


BOOLEAN = Kind("boolean", "True or False", _accept_boolean, _read_boolean)
TEXT = Kind("text", "a text that is not empty", _accept_text, _accept_text)
PASSWORD = Kind("password", "a text or bytes", _accept_password, _accept_text)
PATH = Kind("path", "the path of a file", _accept_path, _accept_text)
URL = Kind("URL", "a URL, or a list of URLs to try in turn", _accept_url, _accept_text)
NAMES = Kind("names", "a list of names", _accept_names, _read_names)
MAPPING = Kind("mapping", "a dict", _accept_mapping, lambda text: _accept_mapping(_read_json(text)))
SSL = Kind("TLS options", "True, False or a dict of TLS options", _accept_ssl, _read_ssl)
RATE = Kind(
    "rate", "a rate such as '10/s', '100/m' or '1000/h', or a number a second", _accept_rate, _accept_rate
)
STRATEGY = Kind(
    "strategy",
    "'round-robin', 'shuffle', or a function of the list of URLs that gives them in another order",
    _accept_strategy,
    _accept_strategy,
)
LEVEL = Kind(
    "log level",
    "a log level such as 'WARNING'",
    _accept_level,
    lambda text: _accept_level(_parsed(int, text)),
)
#: AMQP's numbers of the modes in which messages are kept, and kombu's words for them.
TRANSIENT: Final = 1
PERSISTENT: Final = 2
DELIVERY_MODES: Final[Mapping[Any, int]] = MappingProxyType({
    TRANSIENT: TRANSIENT, "1": TRANSIENT, "transient": TRANSIENT,
    PERSISTENT: PERSISTENT, "2": PERSISTENT, "persistent": PERSISTENT,
})  # fmt: skip
DELIVERY_MODE = Kind("delivery mode", "'persistent' (2) or 'transient' (1)", _accept_mode, _accept_mode)
TIMEZONE = Kind("time zone", "the name of a time zone such as 'Europe/Rome'", _accept_timezone, _accept_text)
ANYTHING = Kind("any", "anything", _accept_anything, _read_json)
