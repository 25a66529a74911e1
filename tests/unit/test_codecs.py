"""Every serializer gives back what it was given, and refuses everything else with a word about why."""

from __future__ import annotations

import enum
import math
import pickle
import threading
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac import codecs
from celeriac.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured

EVERY = ("msgpack", "json", "yaml", "pickle")
SAFE = ("msgpack", "json", "yaml")

offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes() | st.datetimes(timezones=offsets | st.just(UTC))
scalars = (
    st.none() | st.booleans() | st.integers() | st.integers(-(2**200), 2**200) | st.floats() | st.text()
    | st.binary() | moments | st.dates() | st.times() | st.times(timezones=offsets) | st.timedeltas() | st.uuids()
    | st.decimals(allow_nan=False) | st.just(Decimal("NaN"))
)  # fmt: skip
members = st.recursive(
    scalars.filter(lambda value: value == value),
    lambda inner: st.frozensets(inner, max_size=2) | st.tuples(inner, inner),
    max_leaves=3,
)
values = st.recursive(
    scalars | st.sets(members, max_size=2) | st.frozensets(members, max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
keyed = st.dictionaries(members, scalars, max_size=3)


def arrived(value: Any) -> Any:
    """The value as it should arrive: with lists for tuples."""
    if isinstance(value, list | tuple):
        return [arrived(item) for item in value]
    if isinstance(value, dict):
        return {key: arrived(item) for key, item in value.items()}
    return value


def same(one: Any, other: Any) -> bool:
    """Equal in value and type all the way down; a NaN is the same as a NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(item, other[key]) for key, item in one.items())
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            math.copysign(1, one) == math.copysign(1, other) and one == other
        )
    if isinstance(one, Decimal):
        return str(one) == str(other)
    if isinstance(one, datetime | time) and one.utcoffset() != other.utcoffset():
        return False
    return bool(one == other)


def back(name: str, value: Any) -> Any:
    return codecs.load(name, codecs.dump(name, value, EVERY), EVERY)


# -- round trips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAFE)
def test_every_value_arrives_as_it_was_sent(name: str) -> None:
    @given(values)
    def check(value: Any) -> None:
        assert same(back(name, value), arrived(value))

    check()


@given(keyed)
def test_msgpack_keeps_keys_of_every_type(value: Any) -> None:
    found = back("msgpack", value)
    assert found.keys() == value.keys()
    assert all(same(item, arrived(value[key])) for key, item in found.items())


@given(values)
def test_pickle_keeps_tuples(value: Any) -> None:
    assert repr(back("pickle", value)) == repr(pickle.loads(pickle.dumps(value)))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "value",
    [
        -0.0, float("inf"), float("-inf"), 2**63, 2**64, -(2**63), -(2**63) - 1, 10**5000, b"", b"\x00\xff", "", "\x00",
        "é€😀", "null", "1", "yes", "2026-01-01", "\x85\u2028\ufeff", "\x85", {"\x85": "\u2028"}, "a\u2029b",
        [], {}, set(), frozenset(), [[[]]], {"": None},
        datetime(1, 1, 1), datetime.max, datetime(2026, 3, 29, 1, 30, tzinfo=UTC), date.min, time.max, timedelta.min,
        timedelta.max, timedelta(microseconds=-1), UUID(int=0), Decimal("1E+400"),
        Decimal("-0.00"), Decimal("Infinity"),
        {"__type__": "invoice", "__value__": 3}, {"__type__": "datetime", "__value__": "2026"}, {"__type__": 1},
        {"a": {"__type__": {"__type__": "set", "__value__": [1]}, "__value__": None}}, {(1, "a"), (2, "b")},
        {frozenset({(1, (2, 3))})},
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_odd_values_arrive(name: str, value: Any) -> None:
    assert same(back(name, value), value)


@pytest.mark.parametrize("name", EVERY)
def test_nan_arrives(name: str) -> None:
    assert math.isnan(back(name, float("nan")))
    assert back(name, Decimal("NaN")).is_nan()


@pytest.mark.parametrize("name", SAFE)
def test_subclasses_travel_as_their_base(name: str) -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    class Level(enum.IntEnum):
        HIGH = 3

    class Metres(float):
        pass

    pair = namedtuple("pair", "one two")
    sent = [
        Colour.RED,
        Level.HIGH,
        Metres(1.5),
        pair(1, 2),
        OrderedDict(a=1),
        {Colour.RED: 1},
        bytearray(b"x"),
        memoryview(b"y"),
    ]
    assert same(back(name, sent), ["red", 3, 1.5, [1, 2], {"a": 1}, {"red": 1}, b"x", b"y"])


@pytest.mark.parametrize("name", SAFE)
def test_a_class_may_say_how_it_travels(name: str) -> None:
    class Point:
        def __json__(self) -> Any:
            return {"x": 1, "at": date(2026, 1, 1)}

    assert back(name, [Point()]) == [{"x": 1, "at": date(2026, 1, 1)}]


@pytest.mark.parametrize("name", ["json", "yaml"])
def test_json_and_yaml_have_text_keys(name: str) -> None:
    sent = {7: "a", 2.5: "b", None: "c", True: "d", "e": "e"}
    assert back(name, sent) == {"7": "a", "2.5": "b", "null": "c", "true": "d", "e": "e"}


def test_json_marks_types_as_celery_does() -> None:
    written = msgspec.json.decode(
        codecs.dump("json", [datetime(2026, 1, 2, 3, 4), Decimal("1.50")], ["json"])
    )
    assert written == [
        {"__type__": "datetime", "__value__": "2026-01-02T03:04:00"}, {"__type__": "decimal", "__value__": "1.50"}
    ]  # fmt: skip


# -- refused when written ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAFE)
@pytest.mark.parametrize(
    "value",
    [object(), threading.Lock(), test_nan_arrives, int, 1j, range(3)],
    ids=lambda value: type(value).__name__,
)
def test_what_does_not_travel_is_refused_and_its_place_is_told(name: str, value: Any) -> None:
    with pytest.raises(EncodeError, match=r"\['rows'\]\[1\].*does not travel"):
        codecs.dump(name, {"rows": [1, value]}, EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_a_value_that_contains_itself_is_refused(name: str) -> None:
    loop: list[Any] = []
    loop.append(loop)
    if name == "pickle":
        assert back(name, loop)[0][0] is not None
        return
    with pytest.raises(EncodeError):
        codecs.dump(name, loop, EVERY)


@pytest.mark.parametrize("name", ["msgpack", "json"])
def test_text_that_is_not_unicode_is_refused(name: str) -> None:
    with pytest.raises(EncodeError):
        codecs.dump(name, ["\ud800"], EVERY)


@pytest.mark.parametrize("name", ["json", "yaml"])
def test_keys_that_text_cannot_tell_apart_are_refused(name: str) -> None:
    with pytest.raises(EncodeError, match="text"):
        codecs.dump(name, {1: "a", "1": "b"}, EVERY)
    with pytest.raises(EncodeError, match="text keys"):
        codecs.dump(name, {(1, 2): "a"}, EVERY)


def test_what_cannot_be_pickled_is_refused() -> None:
    with pytest.raises(EncodeError, match="pickle"):
        codecs.dump("pickle", threading.Lock(), EVERY)


# -- accepted or not ---------------------------------------------------------------------------------------


class Bomb:
    """Something that runs when it is unpickled."""

    exploded = False

    def __reduce__(self) -> Any:
        return setattr, (Bomb, "exploded", True)


def test_pickle_is_refused_both_ways_unless_it_is_listed() -> None:
    data = pickle.dumps(Bomb())
    for names in (("msgpack", "json", "yaml"), (), ("application/json",)):
        with pytest.raises(ContentDisallowed, match="Pickle can run code"):
            codecs.load("pickle", data, names)
        with pytest.raises(ContentDisallowed, match="accept_content"):
            codecs.dump("pickle", 1, names)
        with pytest.raises(ContentDisallowed):
            codecs.load("application/x-python-serialize", data, names)
    assert not Bomb.exploded
    assert codecs.load("pickle", pickle.dumps((1, 2)), ["pickle"]) == (1, 2)


@pytest.mark.parametrize("name", EVERY)
def test_what_is_not_accepted_is_neither_written_nor_read(name: str) -> None:
    others = [other for other in EVERY if other != name]
    data = codecs.dump(name, [1], [name])
    with pytest.raises(ContentDisallowed):
        codecs.load(name, data, others)
    with pytest.raises(ContentDisallowed):
        codecs.dump(name, [1], others)


@pytest.mark.parametrize("name", EVERY)
def test_content_types_name_serializers_too(name: str) -> None:
    content_type = codecs.CODECS[name].content_type
    assert codecs.codec_name(content_type) == codecs.codec_name(name) == name
    assert codecs.load(name, codecs.dump(content_type, [1], [name]), [content_type]) == [1]


def test_an_unknown_serializer_is_named_with_the_nearest_one() -> None:
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'msgpack'"):
        codecs.dump("msgpak", 1, ["msgpak"])
    with pytest.raises(DecodeError, match="unknown here"):
        codecs.load("msgpak", b"", ["msgpak"])


# -- garbage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAFE)
def test_garbage_is_a_decode_error_or_a_value(name: str) -> None:
    @given(st.binary())
    def check(data: bytes) -> None:
        try:
            codecs.load(name, data, EVERY)
        except DecodeError:
            pass

    check()


@pytest.mark.parametrize("name", ["msgpack", "json"])
def test_truncated_data_is_a_decode_error(name: str) -> None:
    @given(values.map(lambda value: [value]), st.data())
    def check(value: Any, draw: st.DataObject) -> None:
        data = codecs.dump(name, value, EVERY)
        cut = draw.draw(st.integers(0, len(data) - 1))
        with pytest.raises(DecodeError):
            codecs.load(name, data[:cut], EVERY)

    check()


@pytest.mark.parametrize("code", range(128))
def test_a_marked_value_of_the_wrong_type_is_a_decode_error(code: int) -> None:
    for plain in (None, 5, "garbage", "", [], [1], {}, b"x", [[1]], [[{}]], 10**12):
        data = msgspec.msgpack.encode(msgspec.msgpack.Ext(code, msgspec.msgpack.encode(plain)))
        try:
            codecs.load("msgpack", data, EVERY)
        except DecodeError:
            pass


@pytest.mark.parametrize(
    "mark", ["datetime", "uuid", "decimal", "timedelta", "set", "dict", "int", "base64", "time"]
)
def test_a_tagged_value_of_the_wrong_type_is_a_decode_error(mark: str) -> None:
    data = msgspec.json.encode({"__type__": mark, "__value__": {"a": 1} if mark != "set" else [{}]})
    with pytest.raises(DecodeError):
        codecs.load("json", data, EVERY)


def test_an_unknown_mark_was_sent_by_a_later_version() -> None:
    with pytest.raises(DecodeError, match="later version"):
        codecs.load("msgpack", msgspec.msgpack.encode(msgspec.msgpack.Ext(99, b"\x01")), EVERY)
    with pytest.raises(DecodeError, match="later version"):
        codecs.load("json", b'{"__type__": "quaternion", "__value__": 1}', EVERY)


def test_deeply_nested_data_is_a_decode_error() -> None:
    for name, data in (("msgpack", b"\x91" * 100_000), ("json", b"[" * 100_000)):
        with pytest.raises(DecodeError):
            codecs.load(name, data, EVERY)


# -- compression -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(codecs.COMPRESSORS))
def test_compressed_bytes_come_back(name: str) -> None:
    @given(st.binary())
    def check(data: bytes) -> None:
        assert codecs.expand(name, codecs.compress(name, data)) == data

    check()
    assert len(codecs.compress(name, b"abc" * 10_000)) < 1_000


@pytest.mark.parametrize("name", sorted(codecs.COMPRESSORS))
def test_garbage_cannot_be_expanded(name: str) -> None:
    squeezed = codecs.compress(name, b"something to say" * 20)
    for garbage in (b"", b"x", b"garbage" * 10, squeezed[: len(squeezed) // 2]):
        if garbage == b"" and name == "bzip2":
            continue
        with pytest.raises(DecodeError):
            codecs.expand(name, garbage)


def test_an_unknown_compression_is_named_with_the_nearest_one() -> None:
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'gzip'"):
        codecs.compress("gzp", b"")
    with pytest.raises(DecodeError, match="unknown here"):
        codecs.expand("gzp", b"")


# -- the fast path -----------------------------------------------------------------------------------------


@given(st.lists(scalars | st.lists(scalars, max_size=3) | values, max_size=3))
def test_what_is_called_plain_is_written_as_it_is(sent: list[Any]) -> None:
    if codecs.is_plain(sent):
        try:
            written = msgspec.msgpack.encode(sent)
        except OverflowError:  # an int of more than 64 bits, which message.encode lowers then
            return
        assert same(msgspec.msgpack.decode(written), sent)


def test_ids_do_not_count_as_plain() -> None:
    assert not codecs.is_plain([uuid4()])
    assert not codecs.is_plain([(1, 2)])
    assert not codecs.is_plain([[[1]]])
    assert codecs.is_plain([1, "a", None, 2.5, b"", True, [1, "a"]])
