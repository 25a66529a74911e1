"""Bans: what is revoked by its stamps, and so without being known by its id.

A ban is kept by the broker as bytes that only workers read: stamps by name, and of each the values that are revoked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import msgspec

encode: Final = msgspec.msgpack.Encoder().encode
_DECODER: Final = msgspec.msgpack.Decoder(dict[str, list[str]])


def of_headers(headers: Mapping[str, Any]) -> dict[str, list[str]]:
    """Stamps by name, with one value or a list of them, as a ban has them: values are compared as texts."""
    return {name: sorted(_texts(value)) for name, value in headers.items()}


def merged(known: Iterable[bytes]) -> dict[str, frozenset[str]]:
    """All these bans as one. One that cannot be read, as one of a later version, is passed over."""
    values: dict[str, frozenset[str]] = {}
    for data in known:
        try:
            ban = _DECODER.decode(data)
        except msgspec.MsgspecError:
            continue
        for name, texts in ban.items():
            values[name] = values.get(name, frozenset()) | frozenset(texts)
    return values


def match(banned: Mapping[str, Iterable[str]], stamps: Mapping[str, Any]) -> bool:
    """Whether one of the stamps has a value that is banned."""
    return any(not _texts(value).isdisjoint(banned.get(name, ())) for name, value in stamps.items())


def _texts(value: Any) -> frozenset[str]:
    if isinstance(value, list | tuple | set | frozenset):
        return frozenset(map(str, cast("Iterable[Any]", value)))
    return frozenset((str(value),))
