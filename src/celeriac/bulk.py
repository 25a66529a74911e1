"""Many calls of one task with the same options: the options are worked out once, the rest is copied. And the results
of many calls, which are little more than their ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sized
from operator import eq
from typing import Any, cast, overload

from msgspec.structs import replace

from celeriac.async_result import AsyncResult
from celeriac.message import Message
from celeriac.producer import Call
from celeriac.waiting import Origin


class Pattern:
    """What the calls have in common."""

    __slots__ = ("_call", "_check", "_name", "_options", "_origin")

    def __init__(self, call: Call, check: Callable[..., None] | None, app: Any, ignored: bool) -> None:
        self._call = call
        self._check = check
        self._name = call.message.task
        self._options = call.message.options
        ignored = ignored if self._options.ignore_result is None else self._options.ignore_result
        self._origin = Origin(app, None, self._name, ignored)

    def call(self, key: bytes, args: Any, kwargs: dict[str, Any], place: int, seat: Any = None) -> Call:
        """One call, at its place in the group and its seat at a join. Raises: TypeError: the arguments do not fit."""
        if self._check is not None:
            self._check(*args, **kwargs)
        call = self._call
        options = replace(self._options, group_index=place, chord=seat)
        made = Message(key, self._name, args, kwargs, options)
        return Call(made, call.queue, call.due_at, call.priority, call.others)

    def note_result(self, key: bytes, results: Members) -> None:
        """Append the result of one call."""
        results.append_sent(key, self._origin)


class Members(MutableSequence[Any]):
    """The results of many calls, in order, as in a list. Of those of one task the ids alone are kept, sixteen bytes for
    each, until somebody asks for one."""

    __slots__ = ("_keys", "_origin", "_taken")

    def __init__(self, results: Iterable[Any] = ()) -> None:
        #: For every place its key, all zero where the result itself is in `_taken`.
        self._keys = bytearray()
        self._origin: Origin | None = None
        self._taken: dict[int, Any] = {}
        self.extend(results)

    def append(self, value: Any) -> None:
        self._taken[len(self)] = value
        self._keys += bytes(16)

    def append_sent(self, key: bytes, origin: Origin) -> None:
        """Append the result of a call that has been sent with that key."""
        if self._origin is not origin and (self._origin is None or self._origin.is_like(origin)):
            self._origin = origin
        if self._origin is origin:
            self._keys += key
        else:
            self.append(AsyncResult.sent(key, origin))

    def peek(self, place: int) -> Any:
        """The result at a place, which need not be the same object the next time."""
        found = self._taken.get(place)
        if found is None:
            assert self._origin is not None
            found = AsyncResult.sent(bytes(self._keys[place * 16 : place * 16 + 16]), self._origin)
        return found

    def peeked(self) -> Iterator[Any]:
        """All results, as `peek` gives them."""
        return map(self.peek, range(len(self)))

    def kept(self) -> Iterable[Any]:
        """The results that are kept as objects."""
        return self._taken.values()

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        return self._taken.setdefault(places, self.peek(places))

    def __len__(self) -> int:
        return len(self._keys) // 16

    def _set(self, results: list[Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self.extend(results)

    def __setitem__(self, index: Any, value: Any) -> None:
        results = list(self)
        results[index] = value
        self._set(results)

    def __delitem__(self, index: int | slice) -> None:
        results = list(self)
        del results[index]
        self._set(results)

    def insert(self, index: int, value: Any) -> None:
        results = list(self)
        results.insert(index, value)
        self._set(results)

    def __add__(self, other: Iterable[Any]) -> list[Any]:
        return [*self, *other]

    def __radd__(self, other: Iterable[Any]) -> list[Any]:
        return [*other, *self]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Members | list):
            return len(self) == len(cast("Sized", other)) and all(map(eq, self, cast("Iterable[Any]", other)))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))
