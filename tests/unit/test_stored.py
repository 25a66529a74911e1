"""Results and errors survive the way to the store and back, in few bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from celeriac import states, stored
from celeriac.exceptions import (
    BackendGetMetaError,
    ContentDisallowed,
    EncodeError,
    SoftTimeLimitExceeded,
    UnrebuiltError,
)
from celeriac.stored import Stored, failure_of


class Custom(Exception):
    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(code)
        self.hint = hint


class Worded(Exception):
    def __str__(self) -> str:
        return f"code {self.args[0]}"


def there_and_back(record: Stored, serializer: str = "msgpack", **options: Any) -> Stored:
    accept = ("msgpack", "json", "pickle")
    return stored.decode(stored.encode(record, serializer, accept, **options), accept)


@pytest.mark.parametrize("value", [None, True, 42, 4_000_000_000, -1_000_000_000, "abcde"])
def test_a_small_result_takes_at_most_twelve_bytes(value: Any) -> None:
    assert len(stored.encode(Stored(states.SUCCESS, value, 1_795_262_248.944))) <= 12


@pytest.mark.parametrize("at", [None, 12.5, 1_577_836_800.5, 1_795_262_248.944, 2_677_348_427.776, 4e9])
def test_the_time_of_a_small_result_comes_back(at: float | None) -> None:
    assert there_and_back(Stored(states.SUCCESS, 42, at)).date_done == at


@pytest.mark.parametrize(
    "value", [None, 1, "é", 2.5, [1, [2]], {"a": {1, 2}}, datetime(2026, 1, 1, tzinfo=UTC), 2**80]
)
@pytest.mark.parametrize("serializer", ["msgpack", "json", "pickle"])
def test_a_result_comes_back_as_it_went(value: Any, serializer: str) -> None:
    back = there_and_back(Stored(states.SUCCESS, value, 12.5), serializer)
    assert (back.state, back.result, back.date_done) == (states.SUCCESS, value, 12.5)


def test_everything_of_an_extended_record_comes_back() -> None:
    record = Stored(
        "PROGRESS", {"done": 3}, None, None, [[["a", None], None]], "p", "g", "n", [1], {"b": 2}, "w", 3, "q"
    )
    assert there_and_back(record) == record
    assert there_and_back(record, compression="zlib") == record


def test_a_result_that_does_not_travel_is_an_error() -> None:
    with pytest.raises(EncodeError, match=r"builtins\.object"):
        stored.encode(Stored(states.SUCCESS, object()))


@pytest.mark.parametrize(
    "error", [ValueError("x", 2), KeyError("k"), SoftTimeLimitExceeded(3), Worded(7), OSError(2, "no")]
)
def test_an_error_comes_back_as_its_own_class(error: Exception) -> None:
    back = there_and_back(failure_of(error, "tb", 1.0))
    assert type(back.result) is type(error)
    assert (back.result.args, str(back.result), back.traceback) == (error.args, str(error), "tb")


def test_a_constructor_that_asks_for_more_is_not_run() -> None:
    back = there_and_back(failure_of(Custom(3, hint="h"), None)).result
    assert isinstance(back, Custom) and isinstance(back, UnrebuiltError)
    assert (back.args, back.exc_args, back.exc_cls_name) == ((3,), (3,), "Custom")
    assert "Custom, which cannot be built again" in str(back) and "3" in str(back)


def test_arguments_that_do_not_travel_become_text() -> None:
    back = there_and_back(failure_of(ValueError("x", object()), None)).result
    assert back.args[0] == "x"
    assert back.args[1].startswith("<object object")


def test_a_class_that_is_not_imported_here_has_a_stand_in() -> None:
    back = stored.rebuild(["Gone", "proj.errors", ["no luck"]])
    assert isinstance(back, UnrebuiltError)
    assert type(back).__name__ == "Gone"
    assert str(back) == "no luck (proj.errors.Gone, whose class is not imported here)"


@pytest.mark.parametrize("name", ["SystemExit", "print", "object", "KeyboardInterrupt", "__import__"])
def test_only_exceptions_are_rebuilt(name: str) -> None:
    assert isinstance(stored.rebuild([name, "builtins", [1]]), UnrebuiltError)


def test_reading_never_imports() -> None:
    import sys

    sys.modules.pop("this", None)
    assert isinstance(stored.rebuild(["X", "this", []]), UnrebuiltError)
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    "data", [b"", b"\x01", b"\x01\x03", b"\x02\x03\x90", b"\x03\x00", b"\x01\x40\x91\x01", b"\x01\x03\xc1"]
)
def test_garbage_is_told(data: bytes) -> None:
    with pytest.raises(BackendGetMetaError):
        stored.decode(data)


def test_a_pickled_result_is_refused_where_pickle_is_not_accepted() -> None:
    data = stored.encode(Stored(states.SUCCESS, 1), "pickle", ("pickle",))
    with pytest.raises(ContentDisallowed):
        stored.decode(data, ("msgpack", "json"))


def test_an_error_whose_text_is_broken_is_stored() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "its text cannot be had" in str(there_and_back(failure_of(Broken(1), None)).result)
