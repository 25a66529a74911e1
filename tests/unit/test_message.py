"""A message arrives as it was sent, in few bytes; whatever else arrives is told apart, and never explodes."""

from __future__ import annotations

import pickle
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac import clock, message
from celeriac.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    ImproperlyConfigured,
    MessageTooLarge,
    UnknownVersion,
)
from celeriac.message import NO_OPTIONS, VERSION, Message, Options, decode, encode, new_key, peek
from tests.unit.test_codecs import arrived, same, values

EVERY = ("msgpack", "json", "yaml", "pickle")
calls = st.builds(
    Message,
    key=st.binary(min_size=16, max_size=16),
    task=st.text(),
    args=st.lists(values, max_size=3) | st.lists(values, max_size=3).map(tuple),
    kwargs=st.dictionaries(st.text(), values, max_size=3),
)


def message_of(*args: Any, options: Options = NO_OPTIONS, **kwargs: Any) -> Message:
    return Message(new_key(), "project.tasks.work", args, kwargs, options)


# -- round trips -------------------------------------------------------------------------------------------


@given(calls)
def test_a_call_arrives_as_it_was_sent(sent: Message) -> None:
    found = decode(encode(sent))
    assert (found.key, found.task, found.options) == (sent.key, sent.task, NO_OPTIONS)
    assert same(found.args, arrived(sent.args))
    assert same(found.kwargs, arrived(sent.kwargs))


@pytest.mark.parametrize("serializer", ["json", "yaml", "pickle", "msgpack"])
@pytest.mark.parametrize("compression", [None, "gzip", "bzip2"])
def test_a_call_arrives_by_every_serializer_and_compression(serializer: str, compression: str | None) -> None:
    options = Options(serializer=serializer, compression=compression, retries=2)
    sent = message_of(1, [date(2026, 1, 2)], "x" * 500, options=options, url="https://example.com", at={1, 2})
    found = decode(encode(sent, EVERY), EVERY)
    assert found == msgspec.structs.replace(sent, args=list(sent.args))


def test_every_option_arrives() -> None:
    key = new_key()
    options = Options(
        priority=9, eta=1e9 + 0.5, expires=2e9, retries=3, root=key, parent="my own id", group="g", group_index=4,
        headers={"tenant": "é", "at": datetime(2026, 1, 1, tzinfo=UTC)}, stamps={"by": ["me"]},
        links=[{"task": "a", "args": [Decimal("1.5")]}], errbacks=[{"task": "b"}], chain=[{"task": "c"}, {"task": "d"}],
        chord=[b"k" * 16, 3], join=["j", "list", True], time_limit=10.0, soft_time_limit=5.5, ignore_result=False,
        task_id="chosen", shadow="shown", reply_to="queue", unknown_since=1.0, replaced=2,
    )  # fmt: skip
    found = decode(encode(message_of(1, options=options)))
    assert found.options == options
    assert found.id == "chosen"


def test_options_that_have_their_defaults_take_no_room() -> None:
    bare = len(encode(message_of()))
    assert len(encode(message_of(options=Options()))) <= bare + 3
    assert len(encode(message_of(options=Options(retries=3)))) <= bare + 6


def test_options_that_later_versions_add_are_passed_over() -> None:
    wire = msgspec.msgpack.encode(("task", [1], {"a": 2}, {"r": 3, "later": [1, 2]}, "more", "still more"))
    found = decode(VERSION + new_key() + wire)
    assert (found.task, found.args, found.kwargs, found.options) == (
        "task",
        [1],
        {"a": 2},
        Options(retries=3),
    )


def test_no_two_options_share_a_name_on_the_wire() -> None:
    names = Options.__struct_encode_fields__
    assert len(set(names)) == len(Options.__struct_fields__)
    assert {len(name) for name in names} == {1}


def test_messages_of_the_present_format_stay_readable() -> None:
    # Bytes that earlier releases wrote: never change them, add a version instead.
    key = bytes(range(16))
    plain = VERSION + key + bytes.fromhex("93 a57461736b73 92 01 a178 81 a161 c0")
    assert decode(plain) == Message(key, "tasks", [1, "x"], {"a": None})
    assert encode(decode(plain)) == plain
    marked = VERSION + key + b"\x94\xa1t\x91\xc7\x0b\x02\xaa2026-01-02\x80\xde\x00\x01\xa1r\x03"
    assert decode(marked) == Message(key, "t", [date(2026, 1, 2)], {}, Options(retries=3))
    assert encode(decode(marked)) == marked


# -- size --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 999_999])
def test_the_reference_call_takes_at_most_98_bytes(number: int) -> None:
    url = f"https://example.com/items/{number}/reviews"
    data = encode(Message(new_key(), "tasks.scrape", (1_000_000 + number,), {"url": url, "depth": 2}))
    assert len(data) <= 98


def test_a_message_over_the_limit_is_refused_with_both_numbers() -> None:
    sent = message_of("x" * 1_000)
    size = len(encode(sent))
    assert encode(sent, max_size=size)
    with pytest.raises(MessageTooLarge, match=rf"'project.tasks.work' has {size:,} bytes; .* {size - 1:,}"):
        encode(sent, max_size=size - 1)
    small = msgspec.structs.replace(sent, options=Options(compression="zlib"))
    assert encode(small, max_size=size // 2)


# -- refused when written ----------------------------------------------------------------------------------


@pytest.mark.parametrize("serializer", ["msgpack", "json"])
def test_what_does_not_travel_is_refused_and_named(serializer: str) -> None:
    options = Options(serializer=serializer)
    with pytest.raises(EncodeError, match=r"project\.tasks\.work.*object") as caught:
        encode(message_of(1, object(), options=options), EVERY)
    assert "pass its id" in str(caught.value)
    with pytest.raises(EncodeError, match=r"'row'"):
        encode(message_of(1, row=[object()], options=options), EVERY)


def test_an_option_that_does_not_travel_is_named() -> None:
    with pytest.raises(EncodeError, match="the option 'headers'"):
        encode(message_of(options=Options(headers={"x": object()})))


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    ["\ud800", ["\ud800", 1 << 80], {"\udfff": 1}, deep(100_000)],
    ids=["text", "list", "key", "deep"],
)
def test_whatever_cannot_be_written_is_an_encode_error(value: Any) -> None:
    with pytest.raises(EncodeError):
        encode(message_of(value))
    with pytest.raises(EncodeError):
        encode(message_of(value, options=Options(headers={"x": value})))
    with pytest.raises(EncodeError):
        encode(message_of(options=Options(chain=[value])))


@pytest.mark.parametrize("levels", range(200, 1_000, 50))
def test_depth_is_written_and_read_or_refused(levels: int) -> None:
    sent = message_of(deep(levels))
    try:
        data = encode(sent)
    except EncodeError:
        return
    try:
        assert decode(data).args == [deep(levels)]
    except DecodeError:
        return


def test_pickle_is_refused_both_ways_unless_it_is_accepted() -> None:
    sent = message_of({1, 2}, options=Options(serializer="pickle"))
    with pytest.raises(ContentDisallowed):
        encode(sent)
    data = encode(sent, ["pickle"])
    for accept in (("msgpack",), ("msgpack", "json", "yaml")):
        with pytest.raises(ContentDisallowed, match="Pickle can run code"):
            decode(data, accept)
    assert decode(data, ["msgpack", "pickle"]).args == [{1, 2}]


def test_msgpack_is_refused_where_it_is_not_accepted() -> None:
    with pytest.raises(ContentDisallowed):
        decode(encode(message_of(1)), ["json"])


def test_an_unknown_serializer_or_compression_is_named() -> None:
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'json'"):
        encode(message_of(options=Options(serializer="jason")), ["jason"])
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'lzma'"):
        encode(message_of(options=Options(compression="lzm")))


# -- refused when read -------------------------------------------------------------------------------------


@given(st.binary())
def test_garbage_is_a_decode_error(data: bytes) -> None:
    for garbage in (data, VERSION + data, VERSION + bytes(16) + data):
        try:
            decode(garbage, EVERY[:3])
        except DecodeError:
            peek(garbage)


@given(calls, st.data())
def test_a_truncated_message_is_a_decode_error(sent: Message, draw: st.DataObject) -> None:
    data = encode(sent)
    with pytest.raises(DecodeError):
        decode(data[: draw.draw(st.integers(0, len(data) - 1))])


@given(calls, st.data())
def test_a_damaged_message_is_a_decode_error_or_another_message(sent: Message, draw: st.DataObject) -> None:
    data = bytearray(encode(sent))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        assert isinstance(decode(bytes(data)), Message)
    except DecodeError:
        peek(bytes(data))


@given(calls, st.binary(min_size=1))
def test_bytes_behind_a_message_are_a_decode_error(sent: Message, more: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(encode(sent) + more)


@pytest.mark.parametrize("code", range(1, 12))
def test_a_marked_value_of_the_wrong_type_is_a_decode_error(code: int) -> None:
    for plain in (None, 5, "garbage", b"x", [1], [[{}]], {"a": 1}, 10**15, [10**10, 0, 0]):
        marked = msgspec.msgpack.Ext(code, msgspec.msgpack.encode(plain))
        data = VERSION + new_key() + msgspec.msgpack.encode(("t", [marked], {}))
        try:
            decode(data)
        except DecodeError:
            assert peek(data) == (message.id_of(data[1:17]), "?")


def test_deeply_nested_bytes_are_a_decode_error() -> None:
    with pytest.raises(DecodeError):
        decode(VERSION + new_key() + b"\x93\xa1t" + b"\x91" * 100_000 + b"\x80")


@pytest.mark.parametrize("version", [2, 3, 200])
def test_a_message_of_a_later_version_is_told_apart(version: int) -> None:
    with pytest.raises(UnknownVersion, match=f"version {version}.* reads version 1"):
        decode(bytes([version]) + new_key() + b"\x93\xa1t\x90\x80")


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x01", b"\x02", b"\x01" + b"k" * 15, b"\x01" + b"k" * 16])
def test_what_is_too_short_is_no_message(data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(data)
    assert not isinstance(caught.value, UnknownVersion)


@pytest.mark.parametrize(
    "body",
    [
        (1, [], {}), ("t", {}, {}), ("t", "args", {}), ("t", [], []), ("t", [], {1: 2}), ("t",), ("t", []), [], {},
        ("t", [], {}, {"r": "three"}), ("t", [], {}, 5), ("t", b"\x93", None), ("t", b"\x90", None),
        ("t", b"[1, 2]", None, {"z": "json"}), ("t", b"[[], [1]]", None, {"z": "json"}),
        ("t", b"x", None, {"y": "gzip"}),
        ("t", b"\x92\x90\x80", None, {"y": "no such"}),
    ],
)  # fmt: skip
def test_what_is_not_a_call_is_a_decode_error(body: Any) -> None:
    with pytest.raises(DecodeError):
        decode(VERSION + new_key() + msgspec.msgpack.encode(body), EVERY)


def test_a_serializer_that_is_unknown_here_is_a_decode_error() -> None:
    data = VERSION + new_key() + msgspec.msgpack.encode(("t", b"x", None, {"z": "cbor"}))
    with pytest.raises(ContentDisallowed, match="cbor"):
        decode(data)
    with pytest.raises(DecodeError, match="unknown here"):
        decode(data, ["cbor"])


def test_peek_tells_what_can_be_told() -> None:
    sent = message_of(1)
    assert peek(encode(sent)) == (sent.id, "project.tasks.work")
    assert peek(encode(message_of(options=Options(task_id="mine")))) == ("mine", "project.tasks.work")
    assert peek(VERSION + sent.key + b"\xc1") == (sent.id, "?")
    assert peek(b"short") == (None, "?")
    refused = encode(message_of(options=Options(serializer="pickle")), ["pickle"])
    assert peek(refused)[1] == "project.tasks.work"


# -- ids ---------------------------------------------------------------------------------------------------


@given(st.uuids())
def test_a_uuid_is_its_own_key(one: uuid.UUID) -> None:
    assert message.key_of(str(one)) == one.bytes
    assert message.id_of(one.bytes) == str(one)
    assert message.read_id(message.wire_id(str(one))) == str(one)
    assert message.wire_id(str(one)) == one.bytes


@given(
    st.text()
    | st.uuids().map(lambda one: str(one).upper())
    | st.text("0123456789abcdef- ", min_size=36, max_size=36)
)
def test_any_text_is_an_id(task_id: str) -> None:
    key = message.key_of(task_id)
    assert len(key) == 16
    assert key == message.key_of(task_id)
    assert message.read_id(message.wire_id(task_id)) == task_id


@given(st.text(), st.text())
def test_different_ids_have_different_keys(one: str, other: str) -> None:
    assert (message.key_of(one) == message.key_of(other)) == (one == other)


def test_text_that_is_not_unicode_is_an_id_too() -> None:
    assert len(message.key_of("\ud800")) == 16


def test_a_new_key_is_a_uuid_of_version_7() -> None:
    for _ in range(200):
        one = uuid.UUID(bytes=new_key())
        assert (one.version, one.variant) == (7, uuid.RFC_4122)


def test_new_keys_differ_and_sort_by_their_time() -> None:
    keys = [new_key() for _ in range(20_000)]
    assert len(set(keys)) == len(keys)
    times = [message.created_at(key) for key in keys]
    assert all(one is not None for one in times)
    assert [key[:6] for key in keys] == sorted(key[:6] for key in keys)


def test_a_key_tells_when_it_was_made() -> None:
    before = clock.now()
    made_at = message.created_at(new_key())
    assert made_at is not None
    assert before - 0.002 <= made_at <= clock.now()


def test_other_keys_do_not_tell_when_they_were_made() -> None:
    for key in (b"", b"short", uuid.uuid4().bytes, bytes(16), new_key() + b"x"):
        assert message.created_at(key) is None


# -- values ------------------------------------------------------------------------------------------------


def test_a_message_is_a_value() -> None:
    sent = message_of(1, a=timedelta(1))
    assert sent == pickle.loads(pickle.dumps(sent))
    with pytest.raises(AttributeError):
        sent.task = "other"  # type: ignore[misc]
    assert Message(bytes(16), "t") == Message(bytes(16), "t", (), {}, Options())
