"""Serializers: msgpack (the default), json, yaml and pickle, with the value types that tasks use.

What travels: None, bool, int of any size, float, str, bytes, list, dict, datetime, date, time, timedelta,
UUID, Decimal, set, frozenset. A tuple arrives as a list, as with Celery, but for one in a set or one that is a key.
Keys of a dict arrive as they are in msgpack and pickle, as text in json and yaml. Subclasses of str, int, float,
list, tuple and dict travel as their base. Anything else is an EncodeError that says where it was.

Json marks types as Celery does: `{"__type__": "datetime", "__value__": "..."}`. Pickle can run code while it
is read, so it is read and written only where `accept_content` lists it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

import msgspec

from celeriac import plugins
from celeriac.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured

SCALARS: Final = frozenset({str, int, float, bool, type(None), bytes})

#: What reading garbage may raise: the parser, and whatever builds values (Decimal's errors are arithmetic ones).
UNREADABLE: Final = (
    msgspec.DecodeError, ValueError, TypeError, ArithmeticError, AttributeError, LookupError, RecursionError
)  # fmt: skip

_MARKS: Final = (
    "datetime",
    "date",
    "time",
    "timedelta",
    "uuid",
    "decimal",
    "set",
    "frozenset",
    "int",
    "float",
    "dict",
)
_EXT_CODE: Final = {mark: code for code, mark in enumerate(_MARKS, start=1)}
_TAGGED: Final = {"__type__", "__value__"}
_INT64: Final = range(-(1 << 63), 1 << 64)


def is_plain(values: Collection[Any]) -> bool:
    """Whether every value is one that msgpack writes as it is, or a flat list of such."""
    if SCALARS.issuperset(map(type, values)):
        return True
    for value in values:
        kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
        if kind in SCALARS:
            continue
        if kind is list and SCALARS.issuperset(map(type, value)):
            continue
        return False
    return True


def _mark_of(value: Any) -> tuple[str, Any] | None:
    """The mark and the plain form of a value that is neither scalar nor list nor dict."""
    members: Any = value
    match value:
        case datetime():
            return "datetime", value.isoformat()
        case date():
            return "date", value.isoformat()
        case time():
            return "time", value.isoformat()
        case timedelta():
            return "timedelta", [value.days, value.seconds, value.microseconds]
        case UUID():
            return "uuid", value.hex
        case Decimal():
            return "decimal", str(value)
        case frozenset():
            return "frozenset", list(members)
        case set():
            return "set", list(members)
        case _:
            return None


def _value_of(mark: str, plain: Any) -> Any:
    """The reverse of `_mark_of`."""
    match mark:
        case "datetime":
            return datetime.fromisoformat(plain)
        case "date":
            return date.fromisoformat(plain)
        case "time":
            return time.fromisoformat(plain)
        case "timedelta":
            return timedelta(*plain)
        case "uuid":
            return UUID(plain)
        case "decimal":
            return Decimal(plain)
        case "set":
            return set(map(_hashable, plain))
        case "frozenset":
            return frozenset(map(_hashable, plain))
        case "dict":
            return {_hashable(key): value for key, value in plain}
        case "int":
            return int(plain, 16)
        case "float":
            return float(plain)
        case "bytes" | "base64":
            return base64.b64decode(plain)
        case _:
            raise DecodeError(f"a value of the unknown type {mark!r}; it was sent by a later version")


def _hashable(plain: Any) -> Any:
    """A member of a set, or a key: what is a list now was a tuple."""
    if not isinstance(plain, list):
        return plain
    return tuple(map(_hashable, cast("Iterable[Any]", plain)))


def _lower(value: Any, mark: Callable[[str, Any], Any], path: str, *, text_only: bool) -> Any:
    """Rebuild a value from what the format can write; `mark` wraps what it cannot."""
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is str or kind is bool or value is None:
        return value
    if isinstance(value, int):
        number = int(value)  # first: a subclass, asked `in range`, walks through all of it
        return number if number in _INT64 else mark("int", f"{number:x}")
    if isinstance(value, float):
        return mark("float", repr(float(value))) if text_only and not math.isfinite(value) else float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(cast("bytes", value))
        return mark("base64", base64.b64encode(data).decode()) if text_only else data
    if isinstance(value, list | tuple):
        items = cast("Iterable[Any]", value)
        return [_lower(item, mark, f"{path}[{i}]", text_only=text_only) for i, item in enumerate(items)]
    if isinstance(value, dict):
        return _lower_dict(cast("Mapping[Any, Any]", value), mark, path, text_only=text_only)
    if (custom := getattr(value, "__json__", None)) is not None:
        return _lower(custom(), mark, path, text_only=text_only)
    if (found := _mark_of(value)) is None:
        raise EncodeError(
            f"{path or 'the value'} is a {kind.__module__}.{kind.__qualname__}, which does not travel: "
            "pass its id or its fields instead"
        )
    name, plain = found
    return mark(name, _lower(plain, mark, path, text_only=text_only))


def _lower_dict(
    value: Mapping[Any, Any], mark: Callable[[str, Any], Any], path: str, *, text_only: bool
) -> Any:
    keys = [_lower_key(key, mark, path, text_only=text_only) for key in value]
    items = [_lower(item, mark, f"{path}[{key!r}]", text_only=text_only) for key, item in value.items()]
    if not text_only and not SCALARS.issuperset(map(type, keys)):
        return mark("dict", [list(pair) for pair in zip(keys, items, strict=True)])
    lowered = dict(zip(keys, items, strict=True))
    if text_only and len(lowered) != len(value):
        raise EncodeError(f"two keys of {path or 'the value'} are equal as text, and json has text keys only")
    if text_only and lowered.keys() == _TAGGED:
        return mark("dict", [list(pair) for pair in lowered.items()])
    return lowered


def _lower_key(key: Any, mark: Callable[[str, Any], Any], path: str, *, text_only: bool) -> Any:
    if isinstance(key, str):
        return str.__str__(key)
    if text_only:
        if key is None or isinstance(key, bool):
            return {None: "null", True: "true", False: "false"}[key]
        if isinstance(key, int | float):
            return str(key)
        raise EncodeError(
            f"a key of {path or 'the value'} is a {type(key).__name__}: json has text keys only"
        )
    return _lower(key, mark, path, text_only=False)


# -- msgpack -----------------------------------------------------------------------------------------------

_pack: Final = msgspec.msgpack.Encoder().encode


def _ext(mark: str, plain: Any) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(_EXT_CODE[mark], _pack(plain))


def _ext_hook(code: int, data: memoryview) -> Any:
    if not 1 <= code <= len(_MARKS):
        raise DecodeError(f"a value of the unknown type {code}; it was sent by a later version")
    return _value_of(_MARKS[code - 1], _unpack(bytes(data)))


_unpack: Final = msgspec.msgpack.Decoder(ext_hook=_ext_hook).decode


def lower_msgpack(value: Any, path: str = "") -> Any:
    """A value that `msgspec` writes without losing a type. Raises: EncodeError."""
    try:
        return _lower(value, _ext, path, text_only=False)
    except RecursionError:
        raise EncodeError(f"{path or 'the value'} is nested too deeply, or contains itself") from None


def dump_msgpack(value: Any) -> bytes:
    if type(value) not in SCALARS:
        value = lower_msgpack(value)
    try:
        return _pack(value)
    except OverflowError:
        return _pack(lower_msgpack(value))


def load_msgpack(data: bytes) -> Any:
    return _unpack(data)


ext_hook: Final = _ext_hook


# -- json --------------------------------------------------------------------------------------------------


def _tag(mark: str, plain: Any) -> dict[str, Any]:
    return {"__type__": mark, "__value__": plain}


def _untag(value: Any) -> Any:
    if isinstance(value, list):
        return [_untag(item) for item in cast("Iterable[Any]", value)]
    if isinstance(value, dict):
        mapping = cast("Mapping[Any, Any]", value)
        if set(mapping) == _TAGGED:
            return _value_of(mapping["__type__"], _untag(mapping["__value__"]))
        return {key: _untag(item) for key, item in mapping.items()}
    return value


def dump_json(value: Any) -> bytes:
    return msgspec.json.encode(_lower(value, _tag, "", text_only=True))


def load_json(data: bytes) -> Any:
    value = msgspec.json.decode(data)
    return _untag(value) if b'"__type__"' in data else value


# -- yaml and pickle ---------------------------------------------------------------------------------------


def dump_yaml(value: Any) -> bytes:
    plain = _lower(value, _tag, "", text_only=True)
    # Not allow_unicode: PyYAML writes \x85 and \u2028 bare then, and reads them as line breaks.
    return bytes(_yaml("safe_dump")(plain, encoding="utf-8"))


def load_yaml(data: bytes) -> Any:
    return _untag(_yaml("safe_load")(data))


def _yaml(function: str) -> Any:
    try:
        return plugins.load(f"yaml:{function}")
    except ModuleNotFoundError as exc:
        raise ImproperlyConfigured(
            "the serializer 'yaml' needs PyYAML: install it with  pip install 'celeriac[yaml]'"
        ) from exc


def dump_pickle(value: Any) -> bytes:
    try:
        data: bytes = plugins.load("pickle:dumps")(value, protocol=5)
    except Exception as exc:  # pickling runs user code
        raise EncodeError(f"cannot be written as pickle: {exc}") from exc
    return data


def load_pickle(data: bytes) -> Any:
    return plugins.load("pickle:loads")(data)


# -- the table ---------------------------------------------------------------------------------------------


class Codec(NamedTuple):
    """One serializer: how it writes and how it reads."""

    dump: Callable[[Any], bytes]
    load: Callable[[bytes], Any]
    content_type: str


CODECS: Final[dict[str, Codec]] = {
    "json": Codec(dump_json, load_json, "application/json"),
    "msgpack": Codec(dump_msgpack, load_msgpack, "application/x-msgpack"),
    "yaml": Codec(dump_yaml, load_yaml, "application/x-yaml"),
    "pickle": Codec(dump_pickle, load_pickle, "application/x-python-serialize"),
}
_BY_CONTENT_TYPE: Final = {codec.content_type: name for name, codec in CODECS.items()}


class Compressor(NamedTuple):
    """One way to make a body smaller: the functions to load when it is first used."""

    squeeze: str
    expand: str
    error: str


COMPRESSORS: Final[dict[str, Compressor]] = {
    "gzip": Compressor("zlib:compress", "zlib:decompress", "zlib:error"),
    "zlib": Compressor("zlib:compress", "zlib:decompress", "zlib:error"),
    "bzip2": Compressor("bz2:compress", "bz2:decompress", "builtins:OSError"),
    "lzma": Compressor("lzma:compress", "lzma:decompress", "lzma:LZMAError"),
}


def _named(name: str, table: dict[str, Any], what: str) -> Any:
    try:
        return table[name]
    except KeyError:
        known = ", ".join(sorted(table))
        raise ImproperlyConfigured(
            f"no {what} is called {name!r}.{plugins.nearest(name, table)} Known: {known}"
        ) from None


def codec_name(name: str) -> str:
    """The short name of a serializer that may be given by its content type."""
    return _BY_CONTENT_TYPE.get(name, name)


def dump(name: str, value: Any, accept: Collection[str]) -> bytes:
    """Write a value with the serializer of that name.

    Raises:
        EncodeError: a part of the value does not travel; the text says which.
        ContentDisallowed: pickle, where `accept` does not list it.
        ImproperlyConfigured: no serializer has that name.
    """
    name = codec_name(name)
    codec: Codec = _named(name, CODECS, "serializer")
    _check_accepted(name, accept)
    try:
        return codec.dump(value)
    except EncodeError:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError, AttributeError) as exc:
        raise EncodeError(f"cannot be written as {name}: {exc}") from exc


def load(name: str, data: bytes, accept: Collection[str]) -> Any:
    """Read what `dump` wrote.

    Raises:
        ContentDisallowed: the serializer is not accepted here.
        DecodeError: the bytes are not of that format.
    """
    name = codec_name(name)
    _check_accepted(name, accept)
    codec = CODECS.get(name)
    if codec is None:
        raise DecodeError(f"written with the serializer {name!r}, which is unknown here")
    try:
        return codec.load(data)
    except (DecodeError, ImproperlyConfigured):
        raise
    except Exception as exc:
        raise DecodeError(f"cannot be read as {name}: {exc}") from exc


def _check_accepted(name: str, accept: Collection[str]) -> None:
    if name not in accept and not any(codec_name(item) == name for item in accept):
        raise ContentDisallowed(
            f"the serializer {name!r} is refused: accept_content lists {sorted(accept)}. "
            + ("Pickle can run code while it is read; list it only where every sender is trusted."
               if name == "pickle" else f"Add {name!r} to accept_content to allow it.")
        )  # fmt: skip


def compress(name: str, data: bytes) -> bytes:
    """Make bytes smaller. Raises: ImproperlyConfigured when no compressor has that name."""
    compressor: Compressor = _named(name, COMPRESSORS, "compression")
    return bytes(plugins.load(compressor.squeeze)(data))


def expand(name: str, data: bytes) -> bytes:
    """The reverse of `compress`. Raises: DecodeError."""
    compressor = COMPRESSORS.get(name)
    if compressor is None:
        raise DecodeError(f"compressed with {name!r}, which is unknown here")
    try:
        return bytes(plugins.load(compressor.expand)(data))
    except (plugins.load(compressor.error), OSError, ValueError, EOFError) as exc:
        raise DecodeError(f"cannot be expanded as {name}: {exc}") from exc
