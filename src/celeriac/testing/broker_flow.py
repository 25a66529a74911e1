"""What is sent is taken: order, priorities, batches, waiting, delays, several queues, many hands at once."""

from __future__ import annotations

import os
import threading
import warnings
from collections import Counter

import pytest

from celeriac import clock
from celeriac.brokers.contract import HIGHEST_PRIORITY, Broker, Consumer, Outgoing
from celeriac.testing.stand import PATIENCE, SOON, Stand, message, name_of, names, settle, timed


class Flow:
    """From `send` to `take`."""

    forks: bool
    woken_within: float

    def test_it_has_the_verbs_of_the_contract(self, stand: Stand) -> None:
        assert isinstance(stand.broker, Broker)
        assert isinstance(stand.consumer(), Consumer)

    def test_two_connections_name_the_same_place(self, stand: Stand) -> None:
        assert stand.broker.place
        assert stand.broker.place == stand.other.place

    # -- order ---------------------------------------------------------------------------------------------

    def test_a_message_arrives_as_it_was_sent(self, stand: Stand) -> None:
        [data] = stand.send("a")
        consumer = stand.consumer(broker=stand.other)
        [delivery] = consumer.take(1, SOON)
        assert (delivery.queue, delivery.data, delivery.owner) == (stand.queue, data, consumer.owner)
        assert (delivery.crashes, delivery.verdict, delivery.key) == (0, None, data[1:17])

    def test_messages_are_taken_in_the_order_they_were_sent(self, stand: Stand) -> None:
        expected = [str(i) for i in range(30)]
        stand.send(*expected[:10])
        stand.send(*expected[10:11])
        stand.send(*expected[11:])
        assert stand.drained(limit=7) == expected

    def test_a_higher_priority_is_taken_first(self, stand: Stand) -> None:
        for priority in (3, 0, HIGHEST_PRIORITY, 5):
            stand.send(f"{priority}a", f"{priority}b", priority=priority)
        assert stand.drained(limit=3) == ["9a", "9b", "5a", "5b", "3a", "3b", "0a", "0b"]

    def test_every_priority_has_its_place(self, stand: Stand) -> None:
        priorities = range(HIGHEST_PRIORITY + 1)
        stand.broker.send([Outgoing(stand.queue, message(str(p)), p) for p in priorities], SOON)
        assert stand.drained(limit=1) == [str(p) for p in reversed(priorities)]

    def test_a_more_urgent_message_overtakes_one_that_waits(self, stand: Stand) -> None:
        consumer = stand.consumer()
        stand.send("a", "b")
        assert names(consumer.take(1, SOON)) == ["a"]
        stand.send("urgent", priority=1)
        assert names(consumer.take(1, SOON)) == ["urgent"]

    # -- batches -------------------------------------------------------------------------------------------

    def test_a_take_gives_no_more_than_its_limit(self, stand: Stand) -> None:
        stand.send(*"abcde")
        consumer = stand.consumer()
        assert names(consumer.take(3, SOON)) == ["a", "b", "c"]
        assert names(consumer.take(3, SOON)) == ["d", "e"]
        assert consumer.take(3, 0) == []

    def test_what_is_held_is_given_to_nobody_else(self, stand: Stand) -> None:
        stand.send("a", "b")
        first, second = stand.consumer(), stand.consumer(broker=stand.other)
        assert names(first.take(1, SOON)) == ["a"]
        assert names(second.take(10, 0)) == ["b"]
        assert first.take(10, 0) == second.take(10, 0) == []

    def test_an_empty_batch_may_be_sent(self, stand: Stand) -> None:
        stand.broker.send([], SOON)

    def test_one_send_may_go_to_several_queues(self, stand: Stand) -> None:
        second = stand.new_queue()
        stand.broker.send([Outgoing(stand.queue, message("a")), Outgoing(second, message("b"))], SOON)
        assert stand.drained() == ["a"]
        assert stand.drained(second) == ["b"]

    # -- waiting -------------------------------------------------------------------------------------------

    def test_a_take_waits_no_longer_than_it_may(self, stand: Stand) -> None:
        consumer = stand.consumer()
        assert consumer.take(1, 0) == []
        taken, seconds = timed(lambda: consumer.take(1, 0.2))
        assert taken == []
        assert 0.15 <= seconds < 0.2 + SOON

    def test_a_take_without_patience_returns_at_once(self, stand: Stand) -> None:
        consumer = stand.consumer()
        consumer.take(1, 0)
        _, seconds = timed(lambda: [consumer.take(1, 0) for _ in range(5)])
        assert seconds < SOON

    def test_a_waiting_take_is_woken_by_a_send_from_another_connection(self, stand: Stand) -> None:
        # Two threads throw one message to and fro: each waits in a take when the other sends.
        there, back, rounds = stand.queue, stand.new_queue(), 15
        echoing, asking = stand.consumer(there, broker=stand.other), stand.consumer(back)

        def echo() -> None:
            for _ in range(rounds):
                batch = echoing.take(1, PATIENCE)
                settle(echoing, batch)
                stand.other.send([Outgoing(back, d.data) for d in batch], 10.0)

        def ask(name: str) -> list[str]:
            stand.send(name, queue=there)
            batch = asking.take(1, PATIENCE)
            settle(asking, batch)
            return names(batch)

        future = stand.start(echo)
        laps = [timed(lambda name=str(i): ask(name)) for i in range(rounds)]  # type: ignore[misc]
        future.result(PATIENCE)
        assert [got for got, _ in laps] == [[str(i)] for i in range(rounds)]
        assert sorted(seconds for _, seconds in laps)[rounds // 2] < self.woken_within

    def test_a_waiting_take_is_woken_by_a_send_from_its_own_connection(self, stand: Stand) -> None:
        taken, seconds = stand.while_taking(stand.consumer(), lambda: stand.send("a"))
        assert names(taken) == ["a"]
        assert seconds < SOON

    def test_one_message_wakes_one_of_two_that_wait(self, stand: Stand) -> None:
        first, second = stand.consumer(), stand.consumer(broker=stand.other)
        also = stand.start(second.take, 1, 1.5)
        taken, _ = stand.while_taking(first, lambda: stand.send("a"), timeout=1.5)
        assert names([*taken, *also.result(PATIENCE)]) == ["a"]

    def test_a_waiting_take_can_be_woken_by_hand(self, stand: Stand) -> None:
        consumer = stand.consumer()
        began = clock.monotonic()
        future = stand.start(consumer.take, 1, PATIENCE)
        while not future.done():
            consumer.wake()
            threading.Event().wait(0.01)
            assert clock.monotonic() - began < 5.0, "wake() did not make the take return"
        assert future.result() == []
        stand.send("a")
        assert names(consumer.take(1, SOON) or consumer.take(1, SOON)) == ["a"]

    # -- delays --------------------------------------------------------------------------------------------

    def test_a_delayed_message_comes_when_it_is_due_and_not_before(self, stand: Stand) -> None:
        consumer = stand.consumer()
        due_at = clock.now() + 1.0
        stand.broker.send([Outgoing(stand.queue, message("late"), due_at=due_at)], SOON)
        assert consumer.take(1, 0) == []
        [delivery] = consumer.take(1, PATIENCE)
        assert name_of(delivery.data) == "late"
        assert due_at - 0.02 <= clock.now() < due_at + SOON

    def test_a_take_that_ends_before_a_message_is_due_gives_nothing(self, stand: Stand) -> None:
        stand.send("late", due_in=LATER)
        taken, seconds = timed(lambda: stand.consumer().take(1, 0.1))
        assert taken == []
        assert seconds < 0.1 + SOON

    def test_delayed_messages_come_in_the_order_they_are_due(self, stand: Stand) -> None:
        # What was due before it was stored, or before anybody looked, is ready at once, in no order that is promised:
        # on a machine that was busy elsewhere, the order of those that are due farther apart tells.
        for step in (0.3, 2.0, 8.0):
            taken, took = _delayed_by(stand, step)
            assert sorted(taken) == ["first", "second", "third"]
            if taken == ["first", "second", "third"]:
                return
            assert took[0] > 2 * step or took[1] > 3 * step, (taken, took)
        raise AssertionError(f"due {step:g} s apart, they came as {taken} after {took} seconds")

    def test_a_message_due_in_the_past_is_ready_at_once(self, stand: Stand) -> None:
        stand.send("past", due_in=-5.0)
        assert names(stand.consumer().take(1, 0)) == ["past"]

    def test_a_due_message_keeps_its_priority(self, stand: Stand) -> None:
        stand.send("urgent", priority=7, due_in=0.1)
        consumer = stand.consumer()
        assert names(consumer.take(1, PATIENCE)) == ["urgent"]
        stand.send("ready", priority=3)
        stand.send("more urgent", priority=8, due_in=-1.0)
        assert names(consumer.take(1, 0)) == ["more urgent"]

    def test_a_message_that_is_due_earlier_shortens_the_wait(self, stand: Stand) -> None:
        stand.send("much later", due_in=LATER)
        began = clock.now()
        taken, seconds = stand.while_taking(stand.consumer(), lambda: stand.send("soon", due_in=0.1))
        assert names(taken) == ["soon"]
        assert clock.now() - began > 0.1 - 0.02
        assert seconds < 0.1 + SOON

    def test_many_messages_due_at_once_all_come(self, stand: Stand) -> None:
        expected = [str(i) for i in range(500)]
        stand.send(*expected, due_in=0.1)
        consumer = stand.consumer()
        taken: list[str] = []
        while len(taken) < 500 and (batch := consumer.take(100, PATIENCE)):
            settle(consumer, batch)
            taken += names(batch)
        assert sorted(taken) == sorted(expected)

    # -- several queues ------------------------------------------------------------------------------------

    def test_a_consumer_may_serve_several_queues(self, stand: Stand) -> None:
        queues = [stand.queue, stand.new_queue(), stand.new_queue()]
        consumer = stand.consumer(*queues)
        for queue in queues:
            stand.send(queue, queue=queue)
            [delivery] = consumer.take(1, SOON)
            assert (delivery.queue, name_of(delivery.data)) == (queue, queue)

    def test_a_waiting_take_is_woken_by_any_of_its_queues(self, stand: Stand) -> None:
        queues = [stand.queue, stand.new_queue(), stand.new_queue()]
        consumer = stand.consumer(*queues)
        for queue in queues:
            taken, seconds = stand.while_taking(consumer, lambda queue=queue: stand.send("a", queue=queue))  # type: ignore[misc]
            assert [d.queue for d in taken] == [queue]
            assert seconds < SOON

    @pytest.mark.parametrize("limit", [1, 4])
    @pytest.mark.parametrize("full_one_first", [True, False])
    def test_a_queue_that_is_always_full_does_not_starve_another(
        self, stand: Stand, limit: int, full_one_first: bool
    ) -> None:
        full, scant = stand.queue, stand.new_queue()
        stand.send(*(str(i) for i in range(20)), queue=full)
        stand.send("a", "b", "c", queue=scant)
        consumer = stand.consumer(*((full, scant) if full_one_first else (scant, full)))
        share: Counter[str] = Counter()
        for _ in range(30):
            batch = consumer.take(limit, SOON)
            share.update(delivery.queue for delivery in batch)
            stand.send(*("more" for _ in batch), queue=full)
        assert share[scant] == 3
        assert share[full] >= 20

    def test_a_take_looks_into_the_queues_in_the_order_it_is_given(self, stand: Stand) -> None:
        one, two, three = queues = [stand.queue, stand.new_queue(), stand.new_queue()]
        consumer = stand.consumer(*queues)
        stand.send("urgent", queue=one, priority=HIGHEST_PRIORITY)
        stand.send("a", "b", "c", queue=three)
        stand.send("later", queue=two, due_in=-1)
        # Nothing of another queue fills the batch up, and within the queue its own order holds.
        assert names(consumer.take(2, SOON, [three, two, one])) == ["a", "b"]
        assert names(consumer.take(10, SOON, [three, two, one])) == ["c"]
        assert names(consumer.take(10, SOON, [three, two, one])) == ["later"]
        assert names(consumer.take(10, SOON, (three, two, one))) == ["urgent"]
        assert consumer.take(10, 0, [three, two, one]) == []

    def test_a_take_with_an_order_passes_over_a_paused_queue_and_waits_for_all(self, stand: Stand) -> None:
        one, two = queues = [stand.queue, stand.new_queue()]
        consumer = stand.consumer(*queues)
        stand.broker.pause(one)
        stand.send("a", queue=one)
        stand.send("b", queue=two)
        assert names(consumer.take(10, SOON, queues)) == ["b"]
        stand.broker.resume(one)
        assert names(consumer.take(10, PATIENCE, queues)) == ["a"]
        pending = stand.start(consumer.take, 10, PATIENCE, queues)
        stand.send("c", queue=two)
        assert names(pending.result(PATIENCE)) == ["c"]

    def test_messages_of_other_queues_are_left_alone(self, stand: Stand) -> None:
        stand.send("a", queue=stand.new_queue())
        assert stand.consumer().take(10, 0) == []

    # -- any bytes -----------------------------------------------------------------------------------------

    def test_any_bytes_travel(self, stand: Stand) -> None:
        every_byte = bytes(range(256))
        sent = [message("") + every_byte * 3, every_byte[::-1], b"\x00" * 40, b"\r\n" * 20, b"\xff" * 17]
        stand.broker.send([Outgoing(stand.queue, data) for data in sent], SOON)
        stand.broker.send([Outgoing(stand.queue, data, 0, clock.now() - 1) for data in sent], SOON)
        assert [d.data for batch in stand.drain() for d in batch] == sent * 2

    @pytest.mark.parametrize("garbage", [b"\x00", b"junk", b"*3\r\n$3\r\nSET", b"\x01" + b"k" * 15])
    def test_garbage_too_short_for_a_message_is_delivered(self, stand: Stand, garbage: bytes) -> None:
        stand.broker.send([Outgoing(stand.queue, garbage), Outgoing(stand.queue, message("good"))], SOON)
        consumer = stand.consumer()
        first, second = consumer.take(2, SOON)
        assert (first.data, first.key) == (garbage, garbage[1:])
        assert name_of(second.data) == "good"
        assert settle(consumer, [first, second]) == []
        assert stand.stats().running == 0

    def test_equal_messages_are_all_delivered(self, stand: Stand) -> None:
        # Somebody who sends twice under one task id wants two runs.
        data = message("again")
        stand.broker.send([Outgoing(stand.queue, data), Outgoing(stand.queue, data)], SOON)
        stand.broker.send([Outgoing(stand.queue, data)], SOON)
        consumer = stand.consumer()
        batch = consumer.take(10, SOON)
        assert [d.data for d in batch] == [data] * 3
        assert len({d.fence for d in batch}) == 3
        assert settle(consumer, batch[1:2]) == []
        assert stand.stats().running == 2
        assert settle(consumer, [batch[0], batch[2]]) == []
        assert stand.stats().running == 0

    def test_equal_delayed_messages_are_all_delivered(self, stand: Stand) -> None:
        data, due_at = message("again"), clock.now() - 1
        stand.broker.send([Outgoing(stand.queue, data, 0, due_at)] * 2, SOON)
        assert stand.drained() == ["again", "again"]

    def test_a_message_of_a_megabyte_travels(self, stand: Stand) -> None:
        data = message("x" * 1_000_000)
        stand.broker.send([Outgoing(stand.queue, data)], 10.0)
        [delivery] = stand.consumer(broker=stand.other).take(1, 10.0)
        assert delivery.data == data

    # -- many ----------------------------------------------------------------------------------------------

    def test_twenty_thousand_messages_go_in_one_send_and_come_out_in_order(self, stand: Stand) -> None:
        expected = [str(i) for i in range(20_000)]
        stand.send(*expected)
        assert stand.stats().ready == 20_000
        assert stand.drained(broker=stand.other, limit=500) == expected

    def test_many_consumers_take_every_message_once(self, stand: Stand) -> None:
        expected = Counter(str(i) for i in range(2_000))
        consumers = [
            stand.consumer(broker=broker) for broker in (stand.broker, stand.other) for _ in range(2)
        ]
        taken: list[str] = []
        running = [stand.start(_share, consumer, 20, taken, 2_000) for consumer in consumers]
        senders = [
            stand.start(stand.send, *(str(i) for i in range(at, at + 500))) for at in range(0, 2_000, 500)
        ]
        for future in senders + running:
            future.result(PATIENCE)
        assert Counter(taken) == expected

    def test_one_consumer_may_be_used_by_several_threads(self, stand: Stand) -> None:
        expected = Counter(str(i) for i in range(500))
        stand.send(*expected)
        consumer = stand.consumer()
        taken: list[str] = []
        for future in [stand.start(_share, consumer, 5, taken, 500) for _ in range(4)]:
            future.result(PATIENCE)
        assert Counter(taken) == expected
        assert stand.stats().running == 0

    # -- connections ---------------------------------------------------------------------------------------

    def test_closing_twice_is_harmless_and_a_later_call_connects_again(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer(broker=stand.other)
        for closing in (consumer, consumer, stand.broker, stand.broker):
            closing.close()
        stand.send("b")
        assert stand.drained() == ["a", "b"]

    def test_closing_what_was_never_used_is_harmless(self, stand: Stand) -> None:
        stand.consumer().close()
        stand.other.close()

    def test_a_forked_child_has_connections_of_its_own(self, stand: Stand) -> None:
        if not self.forks:
            return
        stand.send("before")
        consumer = stand.consumer()
        assert names(consumer.take(1, SOON)) == ["before"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the stand has threads; they are idle
            child = os.fork()
        if child == 0:
            status = 1
            try:
                stand.send(*(f"child {i}" for i in range(50)))
                status = 0
            finally:
                os._exit(status)
        for i in range(50):
            stand.send(f"parent {i}")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(consumer.take(200, SOON)) == 100


#: A delay that does not pass during a test.
LATER = 3600.0


def _delayed_by(stand: Stand, step: float) -> tuple[list[str], list[float]]:
    """Send three messages that are due `step` seconds apart; which came in turn, and after how many seconds each."""
    consumer = stand.consumer()
    sent_at = clock.now()
    due = {"third": 3 * step, "first": step, "second": 2 * step}
    stand.broker.send(
        [Outgoing(stand.queue, message(name), due_at=sent_at + delay) for name, delay in due.items()], SOON
    )
    taken: list[str] = []
    took: list[float] = []
    while len(taken) < len(due):
        batch = consumer.take(1, PATIENCE)
        assert batch, f"a delayed message did not come: only {taken} did"
        taken += names(batch)
        took.append(clock.now() - sent_at)
        settle(consumer, batch)
    return taken, took


def _share(consumer: Consumer, limit: int, taken: list[str], expected: int) -> None:
    """Take and acknowledge until, with what others take into the same list, there are as many as expected."""
    deadline = clock.monotonic() + PATIENCE
    while len(taken) < expected and clock.monotonic() < deadline:
        batch = consumer.take(limit, 0.1)
        taken += names(batch)
        assert settle(consumer, batch) == []
