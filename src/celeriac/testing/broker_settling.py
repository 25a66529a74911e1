"""Deliveries end once: acknowledged, released, replaced or buried. Who is no longer the owner is refused."""

from __future__ import annotations

import msgspec

from celeriac import clock
from celeriac.brokers.contract import Ack, Action, Bury, Delivery, Outgoing, Release, Replace, Settlement
from celeriac.testing.stand import PATIENCE, SHORT, SOON, Stand, message, names, settle


class Settling:
    """`settle` and `confirm`."""

    # -- the four actions ----------------------------------------------------------------------------------

    def test_an_acknowledged_message_is_gone(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        assert settle(consumer, consumer.take(1, SOON)) == []
        stats = stand.stats()
        assert (stats.ready, stats.running, stats.delayed, stats.dead) == (0, 0, 0, 0)
        assert stand.drained(broker=stand.other) == []

    def test_a_released_message_goes_back_to_the_head_uncounted(self, stand: Stand) -> None:
        stand.send(*"abc")
        consumer = stand.consumer()
        assert settle(consumer, consumer.take(1, SOON), Release()) == []
        batches = stand.drain()
        assert [name for batch in batches for name in names(batch)] == ["a", "b", "c"]
        assert {d.crashes for batch in batches for d in batch} == {0}

    def test_several_released_messages_come_before_those_that_wait(self, stand: Stand) -> None:
        stand.send(*"abcd")
        consumer = stand.consumer()
        settle(consumer, consumer.take(3, SOON), Release())
        after = stand.drained()
        assert (sorted(after[:3]), after[3:]) == (["a", "b", "c"], ["d"])

    def test_a_replaced_message_is_gone_and_its_successor_is_there(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        batch = consumer.take(1, SOON)
        assert settle(consumer, batch, Replace(Outgoing(stand.queue, message("b")))) == []
        assert (stand.stats().ready, stand.stats().running) == (1, 0)
        assert stand.drained() == ["b"]

    def test_a_successor_may_have_the_same_key(self, stand: Stand) -> None:
        [data] = stand.send("first run")
        consumer = stand.consumer()
        [delivery] = consumer.take(1, SOON)
        retry = data[:17] + b"second run"
        settle(consumer, [delivery], Replace(Outgoing(stand.queue, retry, 4)))
        [again] = consumer.take(1, SOON)
        assert (again.data, again.crashes) == (retry, 0)
        assert again.fence > delivery.fence
        assert settle(consumer, [delivery]) == [delivery]
        assert settle(consumer, [again]) == []

    def test_a_successor_may_be_delayed(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        taken = consumer.take(1, SOON)
        due_at = clock.now() + 0.3
        settle(consumer, taken, Replace(Outgoing(stand.queue, message("b"), 0, due_at)))
        assert (stand.stats().ready, stand.stats().delayed, stand.stats().running) == (0, 1, 0)
        assert consumer.take(1, 0) == []
        assert names(consumer.take(1, PATIENCE)) == ["b"]
        assert clock.now() >= due_at - 0.02

    def test_a_successor_may_go_to_another_queue(self, stand: Stand) -> None:
        second = stand.new_queue()
        stand.send("a")
        consumer = stand.consumer()
        settle(consumer, consumer.take(1, SOON), Replace(Outgoing(second, message("b"))))
        assert (stand.drained(), stand.drained(second)) == ([], ["b"])

    def test_a_buried_message_is_a_dead_letter(self, stand: Stand) -> None:
        [data] = stand.send("a")
        consumer = stand.consumer()
        assert settle(consumer, consumer.take(1, SOON), Bury("unreadable", "not a message")) == []
        [letter] = stand.other.dead(stand.queue)
        assert (letter.queue, letter.key, letter.data) == (stand.queue, data[1:17], data)
        assert (letter.reason, letter.detail, list(letter.casualties)) == ("unreadable", "not a message", [])
        assert abs(letter.died_at - clock.now()) < 60
        stats = stand.stats()
        assert (stats.ready, stats.running, stats.dead) == (0, 0, 1)

    def test_garbage_can_be_buried(self, stand: Stand) -> None:
        stand.broker.send([Outgoing(stand.queue, b"junk"), Outgoing(stand.queue, b"\x00\xff")], SOON)
        consumer = stand.consumer()
        assert settle(consumer, consumer.take(2, SOON), Bury("unreadable")) == []
        letters = stand.broker.dead(stand.queue)
        assert [letter.data for letter in letters] == [b"junk", b"\x00\xff"]
        found = stand.broker.find_dead(stand.queue, letters[0].key)
        assert found is not None
        assert found.data == b"junk"

    # -- what goes with a settlement -----------------------------------------------------------------------

    def test_follow_ups_are_sent_with_the_settlement(self, stand: Stand) -> None:
        second = stand.new_queue()
        stand.send("a", "b")
        consumer = stand.consumer()
        one, two = consumer.take(2, SOON)
        refused = consumer.settle([
            Settlement(one, Ack(), [Outgoing(stand.queue, message("a1")), Outgoing(second, message("a2"))]),
            Settlement(two, Bury("told to"), [
                Outgoing(stand.queue, message("b1")),
                Outgoing(stand.queue, message("b2"), 0, clock.now() + 3600),
            ]),
        ])  # fmt: skip
        assert refused == []
        assert stand.stats().delayed == 1
        assert (stand.drained(), stand.drained(second)) == (["a1", "b1"], ["a2"])

    def test_nothing_may_be_settled(self, stand: Stand) -> None:
        consumer = stand.consumer()
        assert consumer.settle([]) == []
        assert consumer.confirm([]) == []

    def test_a_thousand_deliveries_may_be_settled_at_once(self, stand: Stand) -> None:
        stand.send(*(str(i) for i in range(1_000)))
        consumer = stand.consumer()
        batch = consumer.take(1_000, SOON)
        assert len(batch) == 1_000
        sends = [Outgoing(stand.queue, message("next"))]
        assert consumer.settle([Settlement(delivery, Ack(), sends) for delivery in batch]) == []
        assert (stand.stats().ready, stand.stats().running) == (1_000, 0)

    def test_deliveries_may_be_settled_in_any_order(self, stand: Stand) -> None:
        stand.send(*"abcd")
        consumer = stand.consumer()
        batch = consumer.take(4, SOON)
        for delivery in (batch[2], batch[0], batch[3]):
            assert settle(consumer, [delivery]) == []
        assert consumer.confirm(batch) == [batch[0], batch[2], batch[3]]
        assert settle(consumer, batch[1:2]) == []

    def test_one_settle_may_end_deliveries_of_several_queues_in_several_ways(self, stand: Stand) -> None:
        second = stand.new_queue()
        consumer = stand.consumer(stand.queue, second)
        stand.send(*"ab")
        stand.send(*"cd", queue=second)
        held: dict[str, Delivery] = {}
        while batch := consumer.take(10, 0):
            held |= dict(zip(names(batch), batch, strict=True))
        actions: dict[str, Action] = {
            "a": Ack(), "b": Release(), "c": Bury("told to"), "d": Replace(Outgoing(second, message("d2")))
        }  # fmt: skip
        assert consumer.settle([Settlement(held[name], action) for name, action in actions.items()]) == []
        assert (stand.drained(), stand.drained(second)) == (["b"], ["d2"])
        assert stand.stats(second).dead == 1

    # -- refused -------------------------------------------------------------------------------------------

    def test_a_delivery_is_settled_once(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        [delivery] = consumer.take(1, SOON)
        assert settle(consumer, [delivery]) == []
        assert_refused(stand, delivery)
        assert consumer.settle([Settlement(delivery, Ack(), [Outgoing(stand.queue, message("no"))])]) == [
            delivery
        ]
        assert (stand.stats().ready, stand.stats().dead) == (0, 0)

    def test_a_delivery_settled_twice_in_one_call_is_refused_the_second_time(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        [delivery] = consumer.take(1, SOON)
        both = [Settlement(delivery, Ack(), [Outgoing(stand.queue, message("once"))])] * 2
        assert consumer.settle(both) == [delivery]
        assert stand.drained() == ["once"]

    def test_every_action_is_refused_for_what_is_not_held(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        [delivery] = consumer.take(1, SOON)
        settle(consumer, [delivery])
        follow_up = Outgoing(stand.queue, message("no"))
        for action in (Ack(), Release(), Replace(follow_up), Bury("no")):
            assert consumer.settle([Settlement(delivery, action, [follow_up])]) == [delivery]
        stats = stand.stats()
        assert (stats.ready, stats.delayed, stats.running, stats.dead) == (0, 0, 0, 0)

    def test_another_fence_is_refused(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        [delivery] = consumer.take(1, SOON)
        for fence in (delivery.fence + 1, delivery.fence - 1):
            forged = msgspec.structs.replace(delivery, fence=fence)
            assert settle(consumer, [forged]) == [forged]
            assert consumer.confirm([forged]) == [forged]
        assert consumer.confirm([delivery]) == []
        assert settle(consumer, [delivery]) == []

    def test_another_owner_is_refused(self, stand: Stand) -> None:
        stand.send("a", "b")
        mine, theirs = stand.consumer(), stand.consumer(broker=stand.other)
        [delivery] = mine.take(1, SOON)
        theirs.take(1, SOON)
        forged = msgspec.structs.replace(delivery, owner=theirs.owner)
        assert settle(theirs, [forged]) == [forged]
        assert theirs.confirm([forged]) == [forged]
        assert settle(mine, [delivery]) == []

    def test_a_refused_settlement_among_good_ones_harms_none(self, stand: Stand) -> None:
        stand.send(*"abc")
        consumer = stand.consumer()
        a, b, c = consumer.take(3, SOON)
        settle(consumer, [b])
        settlements = [
            Settlement(d, Ack(), [Outgoing(stand.queue, message(f"after {name}"))])
            for d, name in ((a, "a"), (b, "b"), (c, "c"))
        ]
        assert consumer.settle(settlements) == [b]
        assert stand.drained() == ["after a", "after c"]
        assert stand.stats().running == 0

    def test_a_late_settlement_stores_and_sends_nothing(self, stand: Stand) -> None:
        stand.send("a")
        late, heir = stand.consumer(lease=SHORT), stand.consumer(broker=stand.other)
        [old] = late.take(1, SOON)
        stand.expire()
        [new] = heir.take(1, SOON)
        assert new.fence > old.fence
        follow_up = Outgoing(stand.queue, message("no"))
        for action in (Ack(), Release(), Replace(follow_up), Bury("no")):
            assert late.settle([Settlement(old, action, [follow_up])]) == [old]
        assert late.confirm([old]) == [old]
        assert heir.confirm([new]) == []
        stats = stand.stats()
        assert (stats.ready, stats.delayed, stats.running, stats.dead) == (0, 0, 1, 0)
        assert settle(heir, [new]) == []

    def test_a_settlement_is_late_before_anybody_else_has_taken_the_message(self, stand: Stand) -> None:
        stand.send("a")
        late = stand.consumer(lease=SHORT)
        [old] = late.take(1, SOON)
        stand.expire()
        assert settle(late, [old]) == [old]
        assert stand.drained() == ["a"]

    # -- fences --------------------------------------------------------------------------------------------

    def test_the_fence_grows_with_every_delivery_of_a_message(self, stand: Stand) -> None:
        stand.send("a")
        consumers = [stand.consumer(), stand.consumer(broker=stand.other)]
        fences: list[int] = []
        for turn in range(6):
            consumer = consumers[turn % 2]
            batch = consumer.take(1, SOON)
            fences += [delivery.fence for delivery in batch]
            settle(consumer, batch, Release())
        assert len(fences) == 6
        assert fences == sorted(set(fences))

    def test_confirm_names_what_is_no_longer_ours(self, stand: Stand) -> None:
        stand.send(*"abc")
        consumer = stand.consumer()
        a, b, c = consumer.take(3, SOON)
        assert consumer.confirm([a, b, c]) == []
        settle(consumer, [b], Release())
        assert consumer.confirm([a, b, c]) == [b]
        assert stand.stats().running == 2


def assert_refused(stand: Stand, delivery: Delivery) -> None:
    """A delivery that was settled is nobody's, and nothing of it is left."""
    other = stand.consumer(broker=stand.other)
    assert other.take(1, 0) == []
    stats = stand.stats(delivery.queue)
    assert (stats.ready, stats.running) == (0, 0)
