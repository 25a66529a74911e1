"""How calls to PostgreSQL are written and answers read: in the binary formats of its protocol, each type once.

A verb is one call of one function. Its spec names the types of what it takes and gives, so that a call costs no look at
its values: 400 bytes each of a thousand messages pass without being copied twice.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

_INT: Final = struct.Struct(">i")
_BIG: Final = struct.Struct(">q")
_FLOAT: Final = struct.Struct(">d")
_HEAD: Final = struct.Struct(">iiiii")
_NONE: Final = _INT.pack(-1)


class Kind(NamedTuple):
    """A type: its number on the server, and how values of it are written and read."""

    oid: int
    write: Callable[[Any], bytes]
    read: Callable[[bytes], Any]


def _write_text(value: str) -> bytes:
    return value.encode("utf-8", "replace")


def _read_text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _array(oid: int, of: Kind) -> Kind:
    """The type whose values are lists of another's; None has its place in them."""

    def write(values: Sequence[Any]) -> bytes:
        if not values:
            return struct.pack(">iii", 0, 0, of.oid)
        parts = [b""]
        has_none = 0
        for value in values:
            if value is None:
                has_none = 1
                parts.append(_NONE)
            else:
                data = of.write(value)
                parts.append(_INT.pack(len(data)))
                parts.append(data)
        parts[0] = _HEAD.pack(1, has_none, of.oid, len(values), 1)
        return b"".join(parts)

    def read(data: bytes) -> list[Any]:
        if len(data) < _HEAD.size:
            return []
        count, place = _INT.unpack_from(data, 12)[0], _HEAD.size
        values: list[Any] = []
        for _ in range(count):
            [length] = _INT.unpack_from(data, place)
            place += 4
            if length < 0:
                values.append(None)
                continue
            values.append(of.read(data[place : place + length]))
            place += length
        return values

    return Kind(oid, write, read)


def _number(form: struct.Struct) -> Callable[[bytes], Any]:
    """Reads a number of that form."""

    def read(data: bytes) -> Any:
        return form.unpack(data)[0]

    return read


def _write_bool(value: Any) -> bytes:
    return b"\x01" if value else b"\x00"


def _read_bool(data: bytes) -> bool:
    return data != b"\x00"


def _read_void(data: bytes) -> None:
    return None


_TEXT: Final = Kind(25, _write_text, _read_text)
_BYTES: Final = Kind(17, bytes, bytes)
_WHOLE: Final = Kind(23, _INT.pack, _number(_INT))
_LARGE: Final = Kind(20, _BIG.pack, _number(_BIG))
_REAL: Final = Kind(701, _FLOAT.pack, _number(_FLOAT))
_BOOL: Final = Kind(16, _write_bool, _read_bool)

#: By the words of a verb's spec.
KINDS: Final = {
    "text": _TEXT,
    "bytes": _BYTES,
    "int": _WHOLE,
    "big": _LARGE,
    "float": _REAL,
    "bool": _BOOL,
    "void": Kind(2278, bytes, _read_void),
    "texts": _array(1009, _TEXT),
    "byteses": _array(1001, _BYTES),
    "ints": _array(1007, _WHOLE),
    "bigs": _array(1016, _LARGE),
    "floats": _array(1022, _REAL),
    "bools": _array(1000, _BOOL),
}


class Verb:
    """A statement with its parameters' types and its columns'."""

    def __init__(self, sql: str, takes: str = "", gives: str = "") -> None:
        self.sql = sql
        self._takes = [KINDS[word] for word in takes.split()]
        self._gives = [KINDS[word] for word in gives.split()]
        self.oids: Final = [kind.oid for kind in self._takes]
        self.formats: Final = [1] * len(self._takes)

    def write(self, arguments: Sequence[Any]) -> list[bytes | None]:
        """The parameters as they travel."""
        return [
            None if value is None else kind.write(value)
            for kind, value in zip(self._takes, arguments, strict=True)
        ]

    def read(self, result: Any) -> list[tuple[Any, ...]]:
        """The rows of a libpq result."""
        columns = list(enumerate(self._gives))
        get = result.get_value
        return [
            tuple(None if (data := get(row, column)) is None else kind.read(data) for column, kind in columns)
            for row in range(result.ntuples)
        ]


def verb(name: str, takes: str = "", gives: str = "void") -> Verb:
    """The call of a function of the schema, which the connection puts in the place of `celeriac.`."""
    places = ", ".join(f"${number}" for number in range(1, len(takes.split()) + 1))
    return Verb(f"SELECT * FROM celeriac.{name}({places})", takes, gives)
