"""The contract of joins: results that are waited for together, and the one message that is sent for them.

`Joins` is what a result store does; `SharedJoins` what a server does that is broker and store at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from celeriac import clock
from celeriac.brokers.contract import Ack, Arrival, Join, Outgoing, Release, Settlement
from celeriac.message import new_key
from celeriac.results.contract import ResultStore
from celeriac.testing.stand import SOON, Stand, message, names


def _join(
    size: int | None, delay: float | None = None, queue: str = "q", due_at: float | None = None
) -> Join:
    return Join(new_key(), Outgoing(queue, message("body"), 3, due_at), size, delay)


def _arrivals(join: Join, *places: int) -> list[Arrival]:
    return [Arrival(join.key, place, b"%d" % place) for place in places]


class Joins:
    """`open_join`, `size_join`, `arrive`, `gathered`, `end_joins`."""

    @pytest.fixture
    def joins(self, make_store: Callable[[], ResultStore]) -> Iterator[ResultStore]:
        store = make_store()
        yield store
        store.close()

    def test_the_last_result_brings_the_message(self, joins: ResultStore) -> None:
        join = _join(3)
        joins.open_join(join)
        assert joins.arrive(_arrivals(join, 2)) == []
        assert joins.arrive(_arrivals(join, 0)) == []
        assert joins.gathered(join.key) is None
        assert joins.arrive(_arrivals(join, 1)) == [join.outgoing]
        assert joins.gathered(join.key) == [b"0", b"1", b"2"]

    def test_a_place_counts_once_and_keeps_its_first_result(self, joins: ResultStore) -> None:
        join = _join(2)
        joins.open_join(join)
        for _ in range(3):
            assert joins.arrive(_arrivals(join, 0)) == []
        assert joins.arrive([Arrival(join.key, 0, b"another")]) == []
        assert joins.arrive(_arrivals(join, 1)) == [join.outgoing]
        assert joins.gathered(join.key) == [b"0", b"1"]

    def test_only_the_arrival_that_completed_it_brings_the_message_again(self, joins: ResultStore) -> None:
        join = _join(2)
        joins.open_join(join)
        joins.arrive(_arrivals(join, 0))
        joins.arrive(_arrivals(join, 1))
        assert joins.arrive(_arrivals(join, 0)) == []
        assert joins.arrive(_arrivals(join, 1)) == [join.outgoing]

    def test_several_joins_are_served_at_once(self, joins: ResultStore) -> None:
        one, two, three = _join(1), _join(2), _join(1)
        for join in (one, two, three):
            joins.open_join(join)
        arrivals = [*_arrivals(one, 0), *_arrivals(two, 0), *_arrivals(three, 0)]
        assert joins.arrive(arrivals) == [one.outgoing, three.outgoing]
        assert joins.arrive(_arrivals(two, 1)) == [two.outgoing]

    def test_it_is_opened_once(self, joins: ResultStore) -> None:
        join = _join(2)
        joins.open_join(join)
        joins.arrive(_arrivals(join, 0))
        joins.open_join(Join(join.key, Outgoing("elsewhere", message("other")), 1))
        assert joins.arrive(_arrivals(join, 1)) == [join.outgoing]

    def test_its_size_may_be_said_later(self, joins: ResultStore) -> None:
        join = _join(None)
        joins.open_join(join)
        assert joins.arrive(_arrivals(join, 0, 1)) == []
        assert joins.gathered(join.key) is None
        assert joins.size_join(join.key, 3) == []
        assert joins.arrive(_arrivals(join, 2)) == [join.outgoing]

    def test_all_may_have_come_when_its_size_is_said(self, joins: ResultStore) -> None:
        join = _join(None)
        joins.open_join(join)
        joins.arrive(_arrivals(join, 0, 1))
        assert joins.size_join(join.key, 2) == [join.outgoing]
        assert joins.size_join(join.key, 2) == [join.outgoing]
        assert joins.arrive(_arrivals(join, 1)) == []
        assert joins.gathered(join.key) == [b"0", b"1"]

    def test_it_may_grow_until_it_is_complete(self, joins: ResultStore) -> None:
        join = _join(1)
        joins.open_join(join)
        assert joins.grow_join(join.key) == 1
        assert joins.arrive(_arrivals(join, 0)) == []
        assert joins.arrive(_arrivals(join, 1)) == [join.outgoing]
        assert joins.gathered(join.key) == [b"0", b"1"]
        assert joins.grow_join(join.key) is None
        assert joins.grow_join(new_key()) is None

    def test_its_message_waits_as_long_as_it_says(self, joins: ResultStore) -> None:
        join = _join(1, delay=30.0)
        joins.open_join(join)
        [due] = joins.arrive(_arrivals(join, 0))
        assert due.due_at is not None
        assert due.data == join.outgoing.data
        assert abs(due.due_at - clock.now() - 30.0) < SOON

    def test_a_time_that_was_fixed_before_stays(self, joins: ResultStore) -> None:
        at = clock.now() + 60.0
        join = _join(1, due_at=at)
        joins.open_join(join)
        [due] = joins.arrive(_arrivals(join, 0))
        assert due.due_at is not None
        assert abs(due.due_at - at) < SOON

    def test_where_there_is_no_join_nothing_comes(self, joins: ResultStore) -> None:
        join = _join(1)
        assert joins.arrive(_arrivals(join, 0)) == []
        assert joins.size_join(join.key, 1) == []
        assert joins.gathered(join.key) is None

    def test_an_ended_join_is_gone(self, joins: ResultStore) -> None:
        one, other = _join(1), _join(1)
        joins.open_join(one)
        joins.open_join(other)
        joins.arrive([*_arrivals(one, 0), *_arrivals(other, 0)])
        joins.end_joins([one.key])
        assert joins.gathered(one.key) is None
        assert joins.arrive(_arrivals(one, 0)) == []
        assert joins.gathered(other.key) == [b"0"]
        joins.end_joins([one.key, other.key])
        joins.end_joins([])

    def test_five_thousand_results_come_in_any_order(self, joins: ResultStore) -> None:
        join = _join(5_000)
        joins.open_join(join)
        places = list(range(5_000))
        random.Random(7).shuffle(places)
        assert joins.arrive(_arrivals(join, *places)) == [join.outgoing]
        assert joins.gathered(join.key) == [b"%d" % place for place in range(5_000)]

    def test_any_bytes_may_come(self, joins: ResultStore) -> None:
        join = Join(bytes(range(1, 17)), Outgoing("ä:{x}\n", b"\n\x00\xff" * 9, 9), 2)
        joins.open_join(join)
        data = [bytes(range(256)), b""]
        arrived = joins.arrive([Arrival(join.key, place, one) for place, one in enumerate(data)])
        assert arrived == [join.outgoing]
        assert joins.gathered(join.key) == data
        joins.end_joins([join.key])


class SharedJoins:
    """Results that come to joins with settlements."""

    def test_the_last_settlement_sends_the_message(self, stand: Stand, store: ResultStore) -> None:
        join, deliveries = self._opened(stand, store, 3)
        consumer = stand.consumer()
        for place, delivery in enumerate(consumer.take(3, SOON)):
            assert stand.drained(deliveries) == []
            arrivals = _arrivals(join, place)
            assert consumer.settle([Settlement(delivery, Ack(), arrivals=arrivals)]) == []
        assert store.gathered(join.key) == [b"0", b"1", b"2"]
        body_consumer = stand.consumer(deliveries)
        [body] = body_consumer.take(5, SOON)
        assert names([body]) == ["body"]
        assert deliveries in stand.broker.queues()
        body_consumer.settle([Settlement(body, Ack(), joins=[join.key])])
        assert store.gathered(join.key) is None

    def test_one_batch_may_complete_it(self, stand: Stand, store: ResultStore) -> None:
        join, bodies = self._opened(stand, store, 3)
        consumer = stand.consumer()
        batch = [
            Settlement(delivery, Ack(), arrivals=_arrivals(join, place))
            for place, delivery in enumerate(consumer.take(3, SOON))
        ]
        assert consumer.settle(batch) == []
        assert stand.drained(bodies) == ["body"]

    def test_a_member_that_was_sent_twice_completes_it_once(self, stand: Stand, store: ResultStore) -> None:
        join, bodies = self._opened(stand, store, 1)
        consumer = stand.consumer()
        for delivery in consumer.take(2, SOON):
            consumer.settle([Settlement(delivery, Ack(), arrivals=_arrivals(join, 0))])
        assert stand.drained(bodies) == ["body"]

    def test_a_refused_settlement_brings_nothing_to_a_join(self, stand: Stand, store: ResultStore) -> None:
        join, bodies = self._opened(stand, store, 1)
        consumer = stand.consumer()
        [delivery, *others] = consumer.take(3, SOON)
        consumer.settle([Settlement(delivery, Release())])
        late = Settlement(delivery, Ack(), arrivals=_arrivals(join, 0), joins=[join.key])
        assert consumer.settle([late]) == [delivery]
        assert stand.drained(bodies) == []
        in_time = Settlement(others[0], Ack(), arrivals=_arrivals(join, 0))
        assert consumer.settle([in_time]) == []
        assert stand.drained(bodies) == ["body"]

    def test_a_settlement_opens_joins_of_what_it_sends(self, stand: Stand, store: ResultStore) -> None:
        _, bodies = self._opened(stand, store, 1)
        first, second = _join(1, queue=bodies), _join(None, delay=30.0, queue=bodies)
        consumer = stand.consumer()
        opener, *members = consumer.take(3, SOON)
        assert consumer.settle([Settlement(opener, Ack(), opens=[first, second])]) == []
        both = [*_arrivals(first, 0), *_arrivals(second, 0)]
        assert consumer.settle([Settlement(members[0], Ack(), arrivals=both)]) == []
        assert store.gathered(first.key) == [b"0"]
        assert store.size_join(second.key, 1)
        assert stand.drained(bodies) == ["body"]

    def test_a_settlement_leaves_a_join_that_is_open_as_it_is(self, stand: Stand, store: ResultStore) -> None:
        join, bodies = self._opened(stand, store, 2)
        again = Join(join.key, Outgoing(stand.new_queue(), message("other")), 1)
        consumer = stand.consumer()
        opener, *members = consumer.take(3, SOON)
        consumer.settle([Settlement(opener, Ack(), opens=[again])])
        for place, delivery in enumerate(members):
            consumer.settle([Settlement(delivery, Ack(), arrivals=_arrivals(join, place))])
        assert stand.drained(bodies) == ["body"]

    def test_a_refused_settlement_opens_no_join(self, stand: Stand, store: ResultStore) -> None:
        _, bodies = self._opened(stand, store, 1)
        join = _join(1, queue=bodies)
        consumer = stand.consumer()
        delivery, member, _ = consumer.take(3, SOON)
        consumer.settle([Settlement(delivery, Release())])
        assert consumer.settle([Settlement(delivery, Ack(), opens=[join])]) == [delivery]
        consumer.settle([Settlement(member, Ack(), arrivals=_arrivals(join, 0))])
        assert store.gathered(join.key) is None
        assert stand.drained(bodies) == []

    def test_a_message_that_waits_is_due_later(self, stand: Stand, store: ResultStore) -> None:
        bodies = stand.new_queue()
        join = _join(1, delay=30.0, queue=bodies)
        store.open_join(join)
        stand.send("a")
        consumer = stand.consumer()
        [delivery] = consumer.take(1, SOON)
        consumer.settle([Settlement(delivery, Ack(), arrivals=_arrivals(join, 0))])
        assert stand.broker.stats(bodies).delayed == 1

    def _opened(self, stand: Stand, store: ResultStore, size: int) -> tuple[Join, str]:
        """A join whose message goes to a queue of its own, and that queue; three messages wait in the stand's."""
        bodies = stand.new_queue()
        join = _join(size, queue=bodies)
        store.open_join(join)
        stand.send("a", "b", "c")
        return join, bodies
