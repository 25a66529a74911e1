"""The contract of a result store, as tests; and of a server that is broker and store at once.

Subclass `ResultStoreContract` in a test module and supply the fixture `make_store`. Where broker and store
may share their `place`, subclass `SharedPlaceContract` too, with `make_broker` and `make_store`.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from celeriac import clock
from celeriac.brokers.contract import Ack, Action, Bury, Outgoing, Record, Release, Replace, Settlement
from celeriac.message import new_key
from celeriac.results.contract import ResultStore, Watch
from celeriac.testing.brokers import BrokerFixtures
from celeriac.testing.joins import Joins, SharedJoins
from celeriac.testing.stand import PATIENCE, SHORT, SOON, Stand, message, names, pause, settle, timed, until

T = TypeVar("T")


class Shelf:
    """Two connections to one result store, and the threads that use them."""

    def __init__(self, make_store: Callable[[], ResultStore]) -> None:
        self.store = make_store()
        self.other = make_store()
        self._threads = ThreadPoolExecutor(16)

    def close(self) -> None:
        self._threads.shutdown()
        self.store.close()
        self.other.close()

    def put(self, *data: bytes, ttl: float | None = PATIENCE * 3) -> list[bytes]:
        """Store one record for each, under new keys. Returns the keys."""
        records = [Record(new_key(), one, ttl) for one in data]
        self.store.put(records)
        return [record.key for record in records]

    def start(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Run a function in another thread."""
        return self._threads.submit(function, *args)

    def while_watching(
        self, watch: Watch, action: Callable[[], Any], timeout: float = PATIENCE
    ) -> tuple[dict[bytes, bytes], float]:
        """What `next` in another thread returns that waits during the action, and how long after it."""
        entered = threading.Event()

        def wait() -> dict[bytes, bytes]:
            entered.set()
            return watch.next(timeout)

        future = self.start(wait)
        assert entered.wait(PATIENCE)
        pause(0.05)
        action()
        return timed(lambda: future.result(timeout + PATIENCE))


class ResultStoreContract(Joins):
    """What every result store does. A subclass supplies `make_store`."""

    #: Whether a forked child reaches the same records; False for a store that lives in its process.
    forks = True

    @pytest.fixture
    def make_store(self) -> Callable[[], ResultStore]:
        """Makes one more connection to the same place at each call; the suite closes what it makes."""
        raise NotImplementedError(
            "supply a fixture make_store: a function that connects to the store under test"
        )

    @pytest.fixture
    def shelf(self, make_store: Callable[[], ResultStore]) -> Iterator[Shelf]:
        shelf = Shelf(make_store)
        yield shelf
        shelf.close()

    def test_it_has_the_verbs_of_the_contract(self, shelf: Shelf) -> None:
        assert isinstance(shelf.store, ResultStore)
        with shelf.store.watch([new_key()]) as watch:
            assert isinstance(watch, Watch)

    def test_two_connections_name_the_same_place(self, shelf: Shelf) -> None:
        assert shelf.store.place
        assert shelf.store.place == shelf.other.place

    # -- put and get ---------------------------------------------------------------------------------------

    def test_a_record_is_read_as_it_was_stored(self, shelf: Shelf) -> None:
        [key] = shelf.put(b"one")
        assert shelf.store.get([key]) == shelf.other.get([key]) == {key: b"one"}

    def test_only_records_that_are_there_are_returned(self, shelf: Shelf) -> None:
        a, b = shelf.put(b"a", b"b")
        assert shelf.other.get([a, new_key(), b, a]) == {a: b"a", b: b"b"}
        assert shelf.store.get([new_key()]) == shelf.store.get([]) == {}

    def test_many_records_are_stored_and_read_at_once(self, shelf: Shelf) -> None:
        keys = shelf.put(*(str(i).encode() for i in range(5_000)))
        assert shelf.other.get(keys) == {key: str(i).encode() for i, key in enumerate(keys)}

    def test_a_later_record_replaces_an_earlier_one(self, shelf: Shelf) -> None:
        [key] = shelf.put(b"one")
        shelf.other.put([Record(key, b"two")])
        assert shelf.store.get([key]) == {key: b"two"}
        shelf.store.put([Record(key, b"three"), Record(key, b"four")])
        assert shelf.other.get([key]) == {key: b"four"}

    def test_nothing_may_be_stored(self, shelf: Shelf) -> None:
        shelf.store.put([])

    def test_any_bytes_are_stored(self, shelf: Shelf) -> None:
        every_byte = bytes(range(256))
        sent = [every_byte, every_byte[::-1], b"", b"\x00", b"\r\n", b"x" * 1_000_000]
        keys = shelf.put(*sent)
        assert shelf.other.get(keys) == dict(zip(keys, sent, strict=True))

    @pytest.mark.parametrize("byte", [b"\x00", b"\n", b"\xff", b"*", b"%"])
    def test_a_key_may_be_any_sixteen_bytes(self, shelf: Shelf, byte: bytes) -> None:
        keys = [new_key()[:8] + byte * 8, byte * 8 + new_key()[8:]]
        shelf.store.put([Record(key, key, 60.0) for key in keys])
        assert shelf.other.get(keys) == {key: key for key in keys}
        assert shelf.other.forget(keys) == 2

    # -- expiry --------------------------------------------------------------------------------------------

    def test_a_record_is_gone_when_its_time_is_over(self, shelf: Shelf) -> None:
        [kept] = shelf.put(b"kept", ttl=None)
        began = clock.monotonic()
        [key] = shelf.put(b"short", ttl=1.0)
        assert key in shelf.other.get([key])
        until(lambda: not shelf.other.get([key]), "the record expires")
        assert 0.95 < clock.monotonic() - began < 1.0 + 2 * SOON
        assert shelf.store.get([key, kept]) == {kept: b"kept"}
        assert shelf.store.forget([key, kept]) == 1

    def test_a_new_record_has_a_new_time_to_live(self, shelf: Shelf) -> None:
        longer, for_ever, marker = shelf.put(b"1", b"2", b"3", ttl=0.3)
        shorter = shelf.put(b"4", ttl=None)[0]
        shelf.other.put([Record(longer, b"1", 60.0), Record(for_ever, b"2"), Record(shorter, b"4", 0.3)])
        until(lambda: not shelf.store.get([marker, shorter]), "the short ones expire")
        assert shelf.store.get([longer, for_ever]) == {longer: b"1", for_ever: b"2"}
        assert shelf.store.forget([longer, for_ever]) == 2

    def test_a_sweep_deletes_what_has_expired_and_nothing_else(self, shelf: Shelf) -> None:
        [kept] = shelf.put(b"kept")
        gone = shelf.put(b"a", b"b", b"c", ttl=0.1)
        until(lambda: not shelf.store.get(gone), "the records expire")
        assert shelf.store.sweep() >= 0
        assert shelf.other.sweep() == 0
        assert shelf.store.get([*gone, kept]) == {kept: b"kept"}

    def test_an_expired_record_is_not_forgotten_twice(self, shelf: Shelf) -> None:
        gone = shelf.put(b"a", ttl=0.1)
        until(lambda: not shelf.store.get(gone), "the record expires")
        assert shelf.store.forget(gone) == 0

    # -- forget --------------------------------------------------------------------------------------------

    def test_a_forgotten_record_is_gone(self, shelf: Shelf) -> None:
        a, b = shelf.put(b"a", b"b")
        assert shelf.other.forget([a, new_key()]) == 1
        assert shelf.other.forget([a]) == shelf.other.forget([]) == 0
        assert shelf.store.get([a, b]) == {b: b"b"}

    # -- watch ---------------------------------------------------------------------------------------------

    def test_a_watch_begins_with_what_is_there(self, shelf: Shelf) -> None:
        a, b, _ = shelf.put(b"a", b"b", b"unwatched")
        with shelf.other.watch([a, new_key(), b]) as watch:
            assert watch.next(SOON) == {a: b"a", b: b"b"}
            assert watch.next(0) == {}

    def test_a_watch_may_be_given_any_iterable(self, shelf: Shelf) -> None:
        [a] = shelf.put(b"a")
        with shelf.other.watch(key for key in (a, a)) as watch:
            assert watch.next(SOON) == {a: b"a"}
        with shelf.other.watch([]) as watch:
            assert watch.next(0) == {}

    def test_a_watch_waits_no_longer_than_it_may(self, shelf: Shelf) -> None:
        with shelf.store.watch([new_key()]) as watch:
            watch.next(0)
            found, seconds = timed(lambda: watch.next(0.2))
            assert found == {}
            assert 0.15 <= seconds < 0.2 + SOON
            _, seconds = timed(lambda: [watch.next(0) for _ in range(5)])
            assert seconds < SOON

    @pytest.mark.parametrize("same_connection", [False, True])
    def test_a_watch_is_told_of_a_new_record(self, shelf: Shelf, same_connection: bool) -> None:
        key = new_key()
        putter = shelf.store if same_connection else shelf.other
        with shelf.store.watch([key]) as watch:
            assert watch.next(0) == {}
            found, seconds = shelf.while_watching(watch, lambda: putter.put([Record(key, b"new", 60.0)]))
            assert found == {key: b"new"}
            assert seconds < SOON
            assert watch.next(0) == {}

    def test_a_watch_is_told_again_of_a_replaced_record(self, shelf: Shelf) -> None:
        [key] = shelf.put(b"one")
        with shelf.store.watch([key]) as watch:
            assert watch.next(SOON) == {key: b"one"}
            shelf.other.put([Record(key, b"two", 60.0)])
            assert watch.next(PATIENCE) == {key: b"two"}
            assert watch.next(0.1) == {}

    def test_a_watch_is_not_told_of_other_records(self, shelf: Shelf) -> None:
        mine = new_key()
        with shelf.store.watch([mine]) as watch:
            shelf.other.put([Record(new_key(), b"other", 60.0)])
            assert watch.next(0.1) == {}
            shelf.other.put([Record(new_key(), b"other", 60.0), Record(mine, b"mine", 60.0)])
            assert watch.next(PATIENCE) == {mine: b"mine"}

    def test_what_is_discarded_is_watched_no_longer(self, shelf: Shelf) -> None:
        a, b = new_key(), new_key()
        with shelf.store.watch([a, b]) as watch:
            watch.discard([a, new_key()])
            shelf.other.put([Record(a, b"a", 60.0)])
            assert watch.next(0.1) == {}
            shelf.other.put([Record(b, b"b", 60.0)])
            assert watch.next(PATIENCE) == {b: b"b"}
            watch.discard(iter([b]))
            shelf.other.put([Record(b, b"again", 60.0)])
            assert watch.next(0.1) == {}

    def test_what_is_discarded_before_it_was_looked_at_is_not_returned(self, shelf: Shelf) -> None:
        a, b = shelf.put(b"a", b"b")
        with shelf.other.watch([a, b]) as watch:
            watch.discard([a])
            assert watch.next(SOON) == {b: b"b"}

    def test_several_watches_of_one_key_are_all_told(self, shelf: Shelf) -> None:
        key = new_key()
        with (
            shelf.store.watch([key]) as one,
            shelf.store.watch([key]) as two,
            shelf.other.watch([key]) as three,
        ):
            waiting = [shelf.start(watch.next, PATIENCE) for watch in (one, two, three)]
            shelf.store.put([Record(key, b"new", 60.0)])
            assert [future.result(PATIENCE) for future in waiting] == [{key: b"new"}] * 3

    def test_five_thousand_keys_are_watched_at_once(self, shelf: Shelf) -> None:
        keys = [new_key() for _ in range(5_000)]
        records = [Record(key, key, 60.0) for key in keys]

        def put() -> None:
            for at in range(0, len(records), 500):
                shelf.other.put(records[at : at + 500])

        found: dict[bytes, bytes] = {}
        with shelf.store.watch(keys) as watch:
            putting = shelf.start(put)
            while len(found) < len(keys):
                some = watch.next(PATIENCE)
                assert some, f"only {len(found)} of {len(keys)} records came"
                assert found.keys().isdisjoint(some)
                found |= some
                watch.discard(some)
            putting.result(PATIENCE)
        assert found == {key: key for key in keys}

    def test_a_record_stored_while_a_watch_begins_is_never_missed(self, shelf: Shelf) -> None:
        both = threading.Barrier(2)

        def put(keys: Sequence[bytes]) -> None:
            for key in keys:
                both.wait(PATIENCE)
                shelf.other.put([Record(key, key, 60.0)])

        keys = [new_key() for _ in range(150)]
        putting = shelf.start(put, keys)
        for key in keys:
            both.wait(PATIENCE)
            with shelf.store.watch([key]) as watch:
                assert watch.next(PATIENCE) == {key: key}
        putting.result(PATIENCE)

    def test_many_watches_leave_nothing_behind(self, shelf: Shelf) -> None:
        def watch_one() -> None:
            [key] = shelf.put(b"x")
            with shelf.other.watch([key, new_key()]) as watch:
                assert watch.next(SOON) == {key: b"x"}

        for _ in range(5):
            watch_one()
        before = threading.active_count(), _open_files()
        for _ in range(40):
            watch_one()
        assert threading.active_count() <= before[0]
        assert _open_files() <= before[1]

    # -- connections ---------------------------------------------------------------------------------------

    def test_a_store_may_be_used_by_several_threads(self, shelf: Shelf) -> None:
        def use(number: int) -> bool:
            records = [Record(new_key(), f"{number} {i}".encode(), 60.0) for i in range(50)]
            for record in records:
                shelf.store.put([record])
            return shelf.store.get([r.key for r in records]) == {r.key: r.data for r in records}

        assert all(future.result(PATIENCE) for future in [shelf.start(use, i) for i in range(8)])

    def test_closing_twice_is_harmless_and_a_later_call_connects_again(self, shelf: Shelf) -> None:
        [key] = shelf.put(b"a")
        shelf.store.close()
        shelf.store.close()
        assert shelf.store.get([key]) == {key: b"a"}

    def test_a_forked_child_has_connections_of_its_own(self, shelf: Shelf) -> None:
        if not self.forks:
            return
        keys = [new_key() for _ in range(50)]
        shelf.put(b"before")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the shelf has threads; they are idle
            child = os.fork()
        if child == 0:
            status = 1
            try:
                for key in keys:
                    shelf.store.put([Record(key, b"child", 60.0)])
                status = 0
            finally:
                os._exit(status)
        mine = [shelf.put(b"parent")[0] for _ in keys]
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert shelf.store.get(keys + mine) == dict.fromkeys(keys, b"child") | dict.fromkeys(mine, b"parent")


class SharedPlaceContract(BrokerFixtures, SharedJoins):
    """One server that is broker and result store: settlements store results in the same step.

    A subclass supplies `make_broker` and `make_store`, for one and the same URL.
    """

    @pytest.fixture
    def store(self, make_store: Callable[[], ResultStore]) -> Iterator[ResultStore]:
        store = make_store()
        yield store
        store.close()

    def test_broker_and_store_of_one_url_name_the_same_place(self, stand: Stand, store: ResultStore) -> None:
        assert stand.broker.place == store.place

    def test_records_are_stored_with_their_settlement(self, stand: Stand, store: ResultStore) -> None:
        stand.send(*"abcd")
        consumer = stand.consumer()
        batch = consumer.take(4, SOON)
        successor = Outgoing(stand.queue, message("next"))
        actions: list[Action] = [Ack(), Release(), Replace(successor), Bury("told to")]
        settlements = [
            Settlement(delivery, action, records=[Record(delivery.key, delivery.data, 60.0)])
            for delivery, action in zip(batch, actions, strict=True)
        ]
        assert consumer.settle(settlements) == []
        assert store.get([d.key for d in batch]) == {d.key: d.data for d in batch}

    def test_a_settlement_may_have_several_records_and_follow_ups(
        self, stand: Stand, store: ResultStore
    ) -> None:
        stand.send("a")
        consumer = stand.consumer()
        [delivery] = consumer.take(1, SOON)
        records = [Record(new_key(), bytes([i]) * 5, 60.0) for i in range(10)]
        sends = [Outgoing(stand.queue, message(str(i))) for i in range(10)]
        assert consumer.settle([Settlement(delivery, Ack(), sends, records)]) == []
        assert store.get([r.key for r in records]) == {r.key: r.data for r in records}
        assert stand.drained() == [str(i) for i in range(10)]

    def test_what_is_noted_of_a_run_is_stored(self, stand: Stand, store: ResultStore) -> None:
        [data] = stand.send("a")
        consumer = stand.consumer()
        [delivery] = consumer.take(1, SOON)
        assert consumer.place == store.place
        with store.watch([delivery.key]) as watch:
            assert consumer.note(
                delivery, [Record(delivery.key, b"half", 60.0), Record(new_key(), b"", None)]
            )
            assert watch.next(SOON) == {data[1:17]: b"half"}
        assert settle(consumer, [delivery]) == []

    def test_nothing_is_noted_of_a_run_that_is_not_ours(self, stand: Stand, store: ResultStore) -> None:
        stand.send("a")
        consumer = stand.consumer()
        [delivery] = consumer.take(1, SOON)
        record = Record(delivery.key, b"half", 60.0)
        stand.broker.surrender([stand.queue], consumer.owner, {}, {}, 3)
        assert not consumer.note(delivery, [record])
        other = stand.consumer(broker=stand.other)
        [again] = other.take(1, SOON)
        assert not other.note(delivery, [record])
        assert settle(other, [again]) == []
        assert not other.note(again, [record])
        assert store.get([delivery.key]) == {}

    def test_a_replayed_letter_has_no_result_any_more(self, stand: Stand, store: ResultStore) -> None:
        stand.send(*"ab")
        consumer = stand.consumer()
        batch = consumer.take(2, SOON)
        assert consumer.settle([
            Settlement(one, Bury("told to"), records=[Record(one.key, b"failed", 60.0)]) for one in batch
        ]) == []  # fmt: skip
        keys = [one.key for one in batch]
        assert store.get(keys) == dict.fromkeys(keys, b"failed")
        assert stand.broker.replay(stand.queue, keys[:1]) == 1
        assert store.get(keys) == {keys[1]: b"failed"}
        store.put([Record(keys[0], b"done", 60.0)])
        assert stand.broker.replay(stand.queue, keys[:1]) == 0
        assert store.get(keys[:1]) == {keys[0]: b"done"}

    def test_a_settled_record_has_its_time_to_live(self, stand: Stand, store: ResultStore) -> None:
        stand.send("a")
        consumer = stand.consumer()
        [delivery] = consumer.take(1, SOON)
        short, kept = Record(new_key(), b"short", 0.3), Record(new_key(), b"kept")
        consumer.settle([Settlement(delivery, Ack(), records=[short, kept])])
        assert store.get([short.key, kept.key]) == {short.key: b"short", kept.key: b"kept"}
        until(lambda: not store.get([short.key]), "the record expires")
        assert store.forget([short.key, kept.key]) == 1

    def test_a_watch_is_told_of_a_settled_record(self, stand: Stand, store: ResultStore) -> None:
        stand.send("a")
        consumer = stand.consumer()
        [delivery] = consumer.take(1, SOON)
        with store.watch([delivery.key]) as watch:
            waiting = stand.start(watch.next, PATIENCE)
            consumer.settle([Settlement(delivery, Ack(), records=[Record(delivery.key, b"done", 60.0)])])
            found, seconds = timed(lambda: waiting.result(PATIENCE))
        assert found == {delivery.key: b"done"}
        assert seconds < SOON

    def test_a_refused_settlement_stores_nothing(self, stand: Stand, store: ResultStore) -> None:
        stand.send("a", "b")
        consumer = stand.consumer()
        a, b = consumer.take(2, SOON)
        settle(consumer, [a])
        settlements = [Settlement(d, Ack(), records=[Record(d.key, b"done", 60.0)]) for d in (a, b)]
        assert consumer.settle(settlements) == [a]
        assert store.get([a.key, b.key]) == {b.key: b"done"}

    def test_a_late_settlement_stores_nothing(self, stand: Stand, store: ResultStore) -> None:
        stand.send("a")
        late, heir = stand.consumer(lease=SHORT), stand.consumer(broker=stand.other)
        [old] = late.take(1, SOON)
        stand.expire()
        [new] = heir.take(1, SOON)
        assert names([new]) == ["a"]
        assert late.settle([Settlement(old, Ack(), records=[Record(old.key, b"late", 60.0)])]) == [old]
        assert store.get([old.key]) == {}
        assert heir.settle([Settlement(new, Ack(), records=[Record(new.key, b"in time", 60.0)])]) == []
        assert store.get([old.key]) == {old.key: b"in time"}


def _open_files() -> int:
    """How many files and sockets this process has open; 0 where the system does not tell."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
