"""Reading what URLs and transport options say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from celeriac.exceptions import ImproperlyConfigured

_WORDS: Final = {
    **dict.fromkeys(("true", "1", "yes", "on"), True), **dict.fromkeys(("false", "0", "no", "off"), False)
}  # fmt: skip


def number(options: Mapping[str, Any], name: str, default: float) -> float:
    """Raises: ImproperlyConfigured: it is no number."""
    value = options.get(name)
    try:
        return default if value is None else float(value)
    except (TypeError, ValueError):
        raise ImproperlyConfigured(f"the transport option {name!r} is a number, not {value!r}") from None


def truth(options: Mapping[str, Any], name: str) -> bool | None:
    """None: nothing is said. Raises: ImproperlyConfigured: it is neither true nor false."""
    value = options.get(name)
    if value is None:
        return None
    if (word := str(value).lower()) not in _WORDS:
        raise ImproperlyConfigured(f"the transport option {name!r} is true or false, not {value!r}")
    return _WORDS[word]
