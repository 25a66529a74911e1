"""Stored: what is known of a run, to bytes and back; the record that a result store keeps.

The bytes: one for the version, one for the state, then a MessagePack array of the result, the time of its end
and, where there is more to say, a sparse map. A success with a scalar result, which most are, has a shorter form: one
byte that says so, five for its time (milliseconds since 2020), and the result. That is 7 to 11 bytes for a number of up
to nine digits, which matters on Redis, where 13 cost 16 more than 12.

An exception travels as class name, module and args. It is rebuilt only from classes that this process has
already imported: reading a record never imports what the record names.

Words only: no result store, no task.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection
from typing import Any, Final, cast

import msgspec

from celeriac import codecs, states
from celeriac.exceptions import BackendGetMetaError, CeleriacError, EncodeError, UnrebuiltError

VERSION: Final = 1
_CODES: Final = (
    states.PENDING, states.RECEIVED, states.STARTED, states.SUCCESS, states.FAILURE, states.RETRY,
    states.REVOKED, states.REJECTED, states.IGNORED,
)  # fmt: skip
_CODE_OF: Final = {state: code for code, state in enumerate(_CODES)}
_OWN_STATE: Final = 255
_SMALL: Final = b"\x03"
_TIME: Final = slice(1, 6)
#: 2020 began (milliseconds of the epoch); five bytes last from then to 2054.
_TIMES_BEGIN: Final = 1_577_836_800_000


class Stored(msgspec.Struct):
    """One record. `result` is the return value, the exception, or the `meta` of a state of the task's own.

    `children` are results in their tuple form. What follows is kept only with `result_extended`.
    """

    state: str
    result: Any = None
    date_done: float | None = None
    traceback: str | None = None
    children: list[Any] | None = None
    parent_id: str | None = None
    group_id: str | None = None
    name: str | None = None
    args: Any = None
    kwargs: Any = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None
    #: Kept where the record is not under its task's own key.
    task_id: str | None = None


class _More(msgspec.Struct, omit_defaults=True, rename={
    "state": "s", "traceback": "t", "children": "c", "parent_id": "p", "group_id": "g", "name": "n",
    "args": "a", "kwargs": "k", "worker": "w", "retries": "r", "queue": "q",
    "serializer": "z", "compression": "y", "task_id": "d",
}):  # fmt: skip
    """Everything of a record that most records lack."""

    state: str | None = None
    traceback: str | None = None
    children: list[Any] | None = None
    parent_id: str | None = None
    group_id: str | None = None
    name: str | None = None
    args: Any = None
    kwargs: Any = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None
    #: Where set, the result is a byte string written with it.
    serializer: str | None = None
    compression: str | None = None
    task_id: str | None = None


class _Wire(msgspec.Struct, array_like=True):
    result: Any
    date_done: float | None = None
    more: _More | None = None


_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(_Wire, ext_hook=codecs.ext_hook).decode


def failure_of(exc: BaseException, traceback: str | None, date_done: float | None = None) -> Stored:
    """The record of a run that ended with that exception."""
    return Stored(states.FAILURE, exc, date_done, traceback)


def encode(
    stored: Stored,
    serializer: str = "msgpack",
    accept: Collection[str] = ("msgpack",),
    compression: str | None = None,
) -> bytes:
    """The bytes of a record. An exception is always written: what of it does not travel becomes text.

    Raises:
        EncodeError: the return value does not travel; the text says which part.
    """
    result = stored.result
    if type(result) in codecs.SCALARS and stored.state == states.SUCCESS and serializer == "msgpack":
        fast = _encode_small(stored)
        if fast is not None and compression is None:
            return fast
    return _encode_fully(stored, serializer, accept, compression)


def _encode_small(stored: Stored) -> bytes | None:
    """The bytes of a success with a scalar result and nothing else to say; None where there is more."""
    if any(value is not None for value in (
        stored.traceback, stored.children, stored.parent_id, stored.group_id, stored.name, stored.worker,
        stored.retries, stored.queue,
    )):  # fmt: skip
        return None
    stamp = 0 if stored.date_done is None else int(stored.date_done * 1000) - _TIMES_BEGIN
    try:
        return _SMALL + stamp.to_bytes(_TIME.stop - _TIME.start, "big") + _pack(stored.result)
    except (OverflowError, UnicodeEncodeError):
        return None


def _encode_fully(stored: Stored, serializer: str, accept: Collection[str], compression: str | None) -> bytes:
    code = _CODE_OF.get(stored.state, _OWN_STATE)
    more = {
        "s": stored.state if code == _OWN_STATE else None,
        "t": _writable(stored.traceback), "c": stored.children, "p": stored.parent_id, "g": stored.group_id,
        "n": stored.name, "a": _shown(stored.args), "k": _shown(stored.kwargs), "w": stored.worker,
        "r": stored.retries, "q": stored.queue, "d": stored.task_id,
    }  # fmt: skip
    result = stored.result
    if isinstance(result, BaseException):
        result = _fields_of(result, serializer, accept)
    name = codecs.codec_name(serializer)
    if name == "msgpack" and compression is None:
        result = codecs.lower_msgpack(result, "the result")
    else:
        result = codecs.dump(name, result, accept)
        more["z"] = name
        if compression is not None:
            result = codecs.compress(compression, result)
            more["y"] = compression
    present = {key: value for key, value in more.items() if value is not None}
    wire = (
        (result, stored.date_done, codecs.lower_msgpack(present)) if present else (result, stored.date_done)
    )
    try:
        return bytes((VERSION, code)) + _pack(wire)
    except (UnicodeEncodeError, TypeError, ValueError) as exc:
        raise EncodeError(f"the result cannot be written: {exc}") from exc


def _shown(value: Any) -> Any:
    """Arguments as they were, or their text where they do not travel: they are for people to read."""
    if value is None:
        return None
    try:
        return codecs.lower_msgpack(value)
    except EncodeError:
        return _text_of(value)


def _fields_of(exc: BaseException, serializer: str, accept: Collection[str]) -> list[Any]:
    """Class name, module, args and, where it says more than the args, the text."""
    kind = type(exc)
    text = _text_of(exc, str)
    args = [_travelling(value, serializer, accept) for value in exc.args]
    fields: list[Any] = [_writable(kind.__qualname__), _writable(kind.__module__), args]
    return fields if text == _plain_text(args) else [*fields, text]


def _travelling(value: Any, serializer: str, accept: Collection[str]) -> Any:
    if isinstance(value, str):
        return _writable(value)
    try:
        codecs.dump(serializer, value, accept)
    except CeleriacError:
        return _text_of(value)
    return value


def _text_of(value: Any, show: Any = repr) -> str:
    """The text of a value whose own code may be broken."""
    try:
        return cast("str", _writable(show(value)))
    except Exception as exc:  # noqa: BLE001 - user code: the failure itself must still be told
        return f"<{type(value).__name__}: its text cannot be had: {type(exc).__name__}>"


def _writable(text: str | None) -> str | None:
    """The text without what UTF-8 cannot hold."""
    return text if text is None or text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _plain_text(args: list[Any]) -> str:
    return str(args[0]) if len(args) == 1 else str(tuple(args)) if args else ""


def decode(data: bytes, accept: Collection[str] = ("msgpack",)) -> Stored:
    """The record that these bytes are.

    Raises:
        BackendGetMetaError: they are none, or of a later version.
        ContentDisallowed: the result's serializer is not accepted here.
    """
    if data[:1] == _SMALL and len(data) > _TIME.stop:
        return _decode_small(data)
    if len(data) < 3 or data[0] != VERSION or not (data[1] < len(_CODES) or data[1] == _OWN_STATE):
        raise BackendGetMetaError("the stored result is none of Celeriac's, or of a later version")
    try:
        wire = _unpack(data[2:])
    except (msgspec.DecodeError, ValueError, TypeError, OverflowError, RecursionError) as exc:
        raise BackendGetMetaError(f"the stored result cannot be read: {exc}") from exc
    more = wire.more
    result = wire.result
    if more is None:
        state = _CODES[data[1]] if data[1] != _OWN_STATE else "?"
        return Stored(state, rebuild(result) if state in states.EXCEPTION_STATES else result, wire.date_done)
    if more.serializer is not None:
        if more.compression is not None:
            result = codecs.expand(more.compression, result)
        result = codecs.load(more.serializer, result, accept)
    state = more.state or _CODES[data[1]]
    if state in states.EXCEPTION_STATES:
        result = rebuild(result)
    return Stored(
        state, result, wire.date_done, more.traceback, more.children, more.parent_id, more.group_id,
        more.name, more.args, more.kwargs, more.worker, more.retries, more.queue,
        more.task_id,
    )  # fmt: skip


def _decode_small(data: bytes) -> Stored:
    try:
        result = codecs.load_msgpack(data[_TIME.stop :])
    except (msgspec.DecodeError, ValueError, TypeError, OverflowError, RecursionError) as exc:
        raise BackendGetMetaError(f"the stored result cannot be read: {exc}") from exc
    stamp = int.from_bytes(data[_TIME], "big")
    return Stored(states.SUCCESS, result, (stamp + _TIMES_BEGIN) / 1000 if stamp else None)


def rebuild(fields: Any) -> Any:
    """The exception that was stored, or an `UnrebuiltError` of that name where its class is not here."""
    if not isinstance(fields, list) or len(parts := list[Any](fields)) < 3:  # pyright: ignore
        return cast("Any", fields)
    name, module, args, *rest = parts
    said = rest[0] if rest else _plain_text(args)
    kind = _find_class(name, module)
    if kind is None:
        return _stand_in(name, module, args, said, "whose class is not imported here")
    with contextlib.suppress(Exception):  # user code: a constructor may ask for more than the args tell
        return kind(*args)
    why = "which cannot be built again from its args"
    try:
        return _stand_in(name, module, args, said, why, kind)
    except Exception:  # noqa: BLE001 - user code: a class that cannot be made without its constructor, or inherited
        return _stand_in(name, module, args, said, why)


def _stand_in(
    name: str, module: str, args: list[Any], said: str, why: str, *kinds: type[Exception]
) -> UnrebuiltError:
    kind = type(name.rpartition(".")[2], (UnrebuiltError, *kinds), {"__module__": module})
    named = f"{module}.{name}, {why}"
    stand_in: UnrebuiltError = kind.__new__(kind, *args)
    stand_in.args = tuple(args)
    stand_in.exc_module, stand_in.exc_cls_name, stand_in.exc_args = module, name, tuple(args)
    stand_in.text = f"{said} ({named})" if said else named
    return stand_in


def _find_class(name: str, module: str) -> type[Exception] | None:
    """The exception class, where this process has imported it already."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    if isinstance(found, type) and issubclass(found, Exception):
        return found
    return None
