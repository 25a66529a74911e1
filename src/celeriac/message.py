"""Message: a task call as it travels, to bytes and back.

The bytes: one byte for the version, 16 bytes for the id, then a MessagePack array of task name, args, kwargs and,
only where something is not the default, a sparse map of options. The id stands at a fixed place, so
that a broker's script finds it without decoding anything. Written with another serializer or compressed,
the arguments are one byte string in the place of args.

Words only: no broker, no task, no clock but for the time inside new ids.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from struct import Struct
from typing import Any, Final

import msgspec

from celeriac import clock, codecs, plugins
from celeriac.exceptions import DecodeError, EncodeError, MessageTooLarge, UnknownVersion

VERSION: Final = b"\x01"
KEY: Final = slice(1, 17)
_HEAD: Final = 17
#: A key as the two numbers of a `complex`, of all objects the smallest that has room for 16 bytes: 32, where an int
#: takes 48 and bytes 64. Nobody calculates with them, so that every bit stays.
HALVES: Final = Struct("dd")


class Options(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename={
    "priority": "p", "eta": "e", "expires": "x", "retries": "r", "root": "o", "parent": "a", "group": "g",
    "group_index": "i", "headers": "h", "stamps": "s", "links": "l", "errbacks": "f", "chain": "c", "chord": "q",
    "time_limit": "t", "soft_time_limit": "u", "ignore_result": "n", "serializer": "z", "compression": "y",
    "task_id": "d", "shadow": "w", "reply_to": "k", "unknown_since": "m", "replaced": "b",
    "redelivered": "v", "properties": "j", "join": "J", "transient": "T",
}):  # fmt: skip
    """Everything of a message that has a default; on the wire only what differs from it."""

    priority: int = 0
    eta: float | None = None
    expires: float | None = None
    retries: int = 0
    #: Ids of other tasks and of a group: a key, or text where the caller chose its own form (see `wire_id`).
    root: Any = None
    parent: Any = None
    group: Any = None
    group_index: int | None = None
    headers: dict[str, Any] | None = None
    stamps: dict[str, Any] | None = None
    links: list[dict[str, Any]] | None = None
    errbacks: list[dict[str, Any]] | None = None
    chain: list[dict[str, Any]] | None = None
    #: A seat at a join: its id and a place. `join`: the join behind which this runs (see `workflow.joining`).
    chord: list[Any] | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    ignore_result: bool | None = None
    serializer: str = "msgpack"
    compression: str | None = None
    #: The caller's own task id where that is not a UUID; the key is then its digest.
    task_id: str | None = None
    shadow: str | None = None
    reply_to: str | None = None
    unknown_since: float | None = None
    replaced: int = 0
    #: Whether a task has put it back into its queue.
    redelivered: bool = False
    #: What the caller says of the message itself, such as `app_id`.
    properties: dict[str, Any] | None = None
    join: list[Any] | None = None
    #: Whether it need not survive the end of its broker.
    transient: bool = False


NO_OPTIONS: Final = Options()
_ALL_NONE: Final = (None,) * 6


class Message(msgspec.Struct, frozen=True, gc=False):
    """One call of one task. `key` is the 16-byte form of the task id."""

    key: bytes
    task: str
    args: list[Any] | tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    options: Options = NO_OPTIONS

    @property
    def id(self) -> str:
        """The task id as the caller knows it."""
        return self.options.task_id or id_of(self.key)


class _Wire(msgspec.Struct, array_like=True, frozen=True):
    task: str
    args: list[Any] | bytes
    kwargs: dict[str, Any] | None
    options: Options = NO_OPTIONS


class _Outside(msgspec.Struct, array_like=True, frozen=True):
    """A message whose arguments are left as they are: they can be large."""

    task: str
    args: msgspec.Raw
    kwargs: msgspec.Raw
    options: Options = NO_OPTIONS


_unpack_outside: Final = msgspec.msgpack.Decoder(_Outside, ext_hook=codecs.ext_hook).decode
_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(_Wire, ext_hook=codecs.ext_hook).decode


def new_key() -> bytes:
    """A fresh id: a UUID of version 7 (RFC 9562), which sorts by its time of creation (milliseconds)."""
    stamp = int(clock.now() * 1000).to_bytes(6, "big")
    noise = bytearray(os.urandom(10))
    noise[0] = 0x70 | noise[0] & 0x0F
    noise[2] = 0x80 | noise[2] & 0x3F
    return stamp + noise


def new_id() -> str:
    """A fresh task id."""
    return id_of(new_key())


def id_of(key: bytes) -> str:
    """The task id of a key: its text as a UUID."""
    text = key.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def key_of(task_id: str) -> bytes:
    """The key of a task id: the UUID's bytes, or a 16-byte digest where the caller chose another form."""
    if len(task_id) == 36:
        try:
            key = bytes.fromhex(task_id.replace("-", ""))
        except ValueError:
            key = b""
        if id_of(key) == task_id:
            return key
    # Loaded when it is needed: most ids are UUIDs, and hashlib brings OpenSSL.
    digest: bytes = plugins.load("hashlib:blake2b")(
        task_id.encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()
    return digest


def wire_id(task_id: str) -> bytes | str:
    """How another task's id is written in a message: 16 bytes where that is enough."""
    key = key_of(task_id)
    return key if id_of(key) == task_id else task_id


def read_id(wired: bytes | str) -> str:
    """The reverse of `wire_id`."""
    return id_of(wired) if isinstance(wired, bytes) else wired


def created_at(key: bytes) -> float | None:
    """When a key was made, in seconds since the epoch; None where it is not one of `new_key`."""
    return int.from_bytes(key[:6], "big") / 1000 if len(key) == 16 and key[6] >> 4 == 7 else None


def encode(
    message: Message,
    accept: Collection[str] = ("msgpack",),
    max_size: int | None = None,
    compress_from: int = 0,
) -> bytes:
    """The bytes of a message. Arguments of fewer than `compress_from` bytes are not compressed.

    Raises:
        EncodeError: an argument does not travel; the text says which one.
        MessageTooLarge: more than `max_size` bytes.
    """
    options = message.options
    if options.serializer == "msgpack" and options.compression is None:
        data = _encode_inline(message)
    else:
        data = _encode_apart(message, accept, compress_from)
    if max_size is not None and len(data) > max_size:
        raise MessageTooLarge(
            f"the message of task {message.task!r} has {len(data):,} bytes; task_message_max_size allows "
            f"{max_size:,}. Put the data in a file or a database and pass its name."
        )
    return data


def _encode_inline(message: Message) -> bytes:
    args, kwargs, options = message.args, message.kwargs, message.options
    if not (codecs.is_plain(args) and codecs.is_plain(kwargs.values())):
        return _encode_lowered(message)
    try:
        if options is NO_OPTIONS:
            return VERSION + message.key + _pack((message.task, args, kwargs))
        return VERSION + message.key + _pack((message.task, args, kwargs, _lower_options(options)))
    except OverflowError:
        return _encode_lowered(message)
    except EncodeError:
        raise
    except (TypeError, ValueError) as exc:
        raise EncodeError(f"the arguments of task {message.task!r} cannot be written: {exc}") from exc


def _encode_lowered(message: Message) -> bytes:
    options = message.options
    try:
        call: tuple[Any, ...] = (message.task, *_lower_call(message))
        if options is not NO_OPTIONS:
            call += (_lower_options(options),)
        return VERSION + message.key + _pack(call)
    except EncodeError:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise EncodeError(f"the arguments of task {message.task!r} cannot be written: {exc}") from exc


def _lower_options(options: Options) -> Any:
    """Options whose free parts (headers, links...) may hold dates and the like."""
    free = (
        options.headers, options.links, options.errbacks, options.chain, options.stamps, options.properties,
    )  # fmt: skip
    if free == _ALL_NONE:
        return options
    return {
        name: codecs.lower_msgpack(value, f"the option {field!r}")
        for field, name in zip(Options.__struct_fields__, Options.__struct_encode_fields__, strict=True)
        if (value := getattr(options, field)) != getattr(NO_OPTIONS, field)
    }


def _lower_call(message: Message) -> tuple[list[Any], dict[str, Any]]:
    name = message.task
    args = [
        codecs.lower_msgpack(value, f"argument {place} of task {name!r}")
        for place, value in enumerate(message.args)
    ]
    kwargs = {
        key: codecs.lower_msgpack(value, f"argument {key!r} of task {name!r}")
        for key, value in message.kwargs.items()
    }
    return args, kwargs


def _encode_apart(message: Message, accept: Collection[str], compress_from: int) -> bytes:
    options = message.options
    try:
        body = codecs.dump(options.serializer, [list(message.args), message.kwargs], accept)
    except EncodeError as exc:
        raise EncodeError(f"the arguments of task {message.task!r} cannot be sent: {exc}") from exc
    if options.compression is not None:
        if len(body) >= compress_from:
            body = codecs.compress(options.compression, body)
        else:
            options = msgspec.structs.replace(options, compression=None)
    return VERSION + message.key + _pack((message.task, body, None, _lower_options(options)))


def decode(data: bytes, accept: Collection[str] = ("msgpack",)) -> Message:
    """The message that these bytes are.

    Raises:
        UnknownVersion: written by a later version.
        ContentDisallowed: its serializer is not accepted here.
        DecodeError: anything else that is not a message.
    """
    if data[:1] != VERSION:
        if data[:1] and data[0] > VERSION[0] and len(data) > _HEAD:
            raise UnknownVersion(f"a message of version {data[0]}; this worker reads version {VERSION[0]}")
        raise DecodeError("not a Celeriac message")
    try:
        wire = _unpack(data[_HEAD:])
    except codecs.UNREADABLE as exc:
        raise DecodeError(f"not a Celeriac message: {exc}") from exc
    args, kwargs, options = wire.args, wire.kwargs, wire.options
    if isinstance(args, bytes):
        args, kwargs = _decode_apart(args, options, accept)
    elif "msgpack" not in accept:
        codecs.load("msgpack", b"\xc0", accept)
    return Message(data[KEY], wire.task, args, kwargs or {}, options)


def _decode_apart(body: bytes, options: Options, accept: Collection[str]) -> tuple[list[Any], dict[str, Any]]:
    if options.compression is not None:
        body = codecs.expand(options.compression, body)
    call: Any = codecs.load(options.serializer, body, accept)
    parts: Any = call
    match parts:
        case [list(), dict()]:
            return call[0], call[1]
        case _:
            raise DecodeError("the arguments are not a list and a map")


def peek(data: bytes) -> tuple[str | None, str]:
    """Task id and task name of a message that may be unreadable, for records and logs."""
    try:
        wire = _unpack(data[_HEAD:])
    except codecs.UNREADABLE:
        return (id_of(data[KEY]) if len(data) >= _HEAD else None), "?"
    return wire.options.task_id or id_of(data[KEY]), wire.task


def eta_of(data: bytes) -> float | None:
    """When a message is to run (epoch seconds) as its sender said; None where he did not, or it cannot be read."""
    return _options_of(data).eta


def is_transient(data: bytes) -> bool:
    """Whether a message need not survive the end of its broker; False where it cannot be read."""
    return _options_of(data).transient


def _options_of(data: bytes) -> Options:
    try:
        return _unpack_outside(data[_HEAD:]).options
    except codecs.UNREADABLE:
        return NO_OPTIONS
