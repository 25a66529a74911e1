"""Transient messages: while their broker lives they are like any others, and come among them in order."""

from __future__ import annotations

import pytest

from celeriac import clock
from celeriac.brokers.abilities import Searchable
from celeriac.brokers.contract import REVOKED, Bury, Outgoing, PutBack, Release, Replace, Revocation
from celeriac.message import KEY
from celeriac.testing.stand import SHORT, SOON, Stand, casualty_of, message, name_of, names, settle

KEEP = 300.0


class Transience:
    """`Outgoing.transient`."""

    def test_they_are_counted_and_taken_with_the_others(self, stand: Stand) -> None:
        sent = stand.send("a", "b", transient=True)
        sent += stand.send("c")
        stats = stand.stats()
        assert (stats.ready, stats.delayed, stats.running) == (3, 0, 0)
        assert stand.queue in stand.other.queues()
        consumer = stand.consumer(broker=stand.other)
        taken = [one for _ in range(3) for one in consumer.take(1, SOON)]
        assert {one.data for one in taken} == set(sent)
        assert len({(one.owner, one.fence) for one in taken}) == 3
        assert consumer.confirm(taken) == consumer.commit(taken) == []
        assert (stand.stats().ready, stand.stats().running) == (0, 3)
        assert settle(consumer, taken) == []
        assert set(settle(consumer, taken)) == set(consumer.confirm(taken)) == set(taken)
        assert stand.stats().running == 0

    def test_a_higher_priority_comes_first_of_whatever_kind(self, stand: Stand) -> None:
        for priority in (0, 5, 9):
            stand.send(f"t{priority}", f"u{priority}", priority=priority, transient=True)
            stand.send(f"d{priority}", f"e{priority}", priority=priority)
        drained = stand.drained()
        assert [name[1] for name in drained] == [*"999955550000"]
        for first, second in ("tu", "de"):
            assert [name for name in drained if name[0] in (first, second)] == [
                f"{kind}{priority}" for priority in (9, 5, 0) for kind in (first, second)
            ]

    def test_of_one_priority_what_was_sent_before_comes_before(self, stand: Stand) -> None:
        kinds = [False, True, True, False, True, False]
        # By whatever a broker tells the order of the two kinds: this much apart it is clear.
        batch = [
            Outgoing(stand.queue, message(str(place), age=60.0 - place), transient=kind)
            for place, kind in enumerate(kinds)
        ]
        for one in batch:
            stand.broker.send([one], SOON)
        assert stand.drained(limit=1) == [*"012345"]

    def test_one_batch_has_both_kinds_in_order(self, stand: Stand) -> None:
        kinds = [False, True, False, True]
        for place, kind in enumerate(kinds):
            stand.broker.send(
                [Outgoing(stand.queue, message(str(place), age=60.0 - place), transient=kind)], SOON
            )
        consumer = stand.consumer()
        batch = consumer.take(10, SOON)
        assert names(batch) == [*"0123"]
        assert settle(consumer, batch[1:3], Release()) == []
        assert stand.drained() == [*"12"]

    def test_given_back_they_are_at_the_head_again(self, stand: Stand) -> None:
        stand.send("a", "b", transient=True)
        consumer = stand.consumer()
        batch = consumer.take(1, SOON)
        assert settle(consumer, batch, Release()) == []
        again = consumer.take(1, SOON)
        assert names(again) == ["a"]
        assert again[0].fence > batch[0].fence
        consumer.close()
        assert stand.drained() == ["a", "b"]

    def test_delayed_they_wait_until_they_are_due(self, stand: Stand) -> None:
        stand.send("late", due_in=KEEP, transient=True)
        stand.send("soon", due_in=SHORT, transient=True)
        assert (stand.stats().ready, stand.stats().delayed) == (0, 2)
        consumer = stand.consumer()
        [soon] = consumer.take(10, SOON)
        assert name_of(soon.data) == "soon"
        assert settle(consumer, [soon], PutBack(soon.data, clock.now() + SHORT)) == []
        [again] = consumer.take(10, SOON)
        assert again.data == soon.data
        retry = Outgoing(stand.queue, message("retry"), 0, clock.now() + SHORT, True)
        assert settle(consumer, [again], Replace(retry)) == []
        assert names(consumer.take(10, SOON)) == ["retry"]
        assert stand.stats().delayed == 1

    def test_a_dead_process_is_counted_against_them(self, stand: Stand) -> None:
        stand.send("a", transient=True)
        stand.crash(times=3)
        judged = stand.bury_judged()
        assert judged.crashes == 3
        [letter] = stand.broker.dead(stand.queue)
        assert (name_of(letter.data), len(letter.casualties)) == ("a", 3)
        assert (stand.stats().ready, stand.stats().running, stand.stats().dead) == (0, 0, 1)

    def test_a_lost_lease_gives_them_to_others(self, stand: Stand) -> None:
        stand.send("a", transient=True)
        consumer = stand.consumer(lease=SHORT)
        batch = consumer.take(1, SOON)
        stand.expire()
        assert settle(consumer, batch) == batch
        [[again]] = stand.drain()
        assert (name_of(again.data), again.crashes) == ("a", 1)

    def test_a_surrender_gives_back_what_had_not_begun(self, stand: Stand) -> None:
        stand.send("a", "b", "c", transient=True)
        consumer = stand.consumer()
        first, second, third = consumer.take(3, SOON)
        consumer.commit([second])
        casualties = {first.key: casualty_of("signal 9 (SIGKILL)")}
        assert (
            stand.other.surrender([stand.queue], consumer.owner, casualties, {third.key: "time_limit:3"}, 3)
            == 3
        )
        told = {name_of(one.data): (one.crashes, one.verdict) for batch in stand.drain() for one in batch}
        assert told == {"a": (1, None), "b": (0, "worker_lost"), "c": (0, "time_limit:3")}

    def test_buried_and_replayed_they_are_there_again(self, stand: Stand) -> None:
        stand.send("a", transient=True)
        consumer = stand.consumer()
        [delivery] = consumer.take(1, SOON)
        assert settle(consumer, [delivery], Bury("why")) == []
        assert (stand.stats().ready, stand.stats().running, stand.stats().dead) == (0, 0, 1)
        assert stand.broker.replay(stand.queue, [delivery.key]) == 1
        assert stand.drained() == ["a"]

    def test_what_waits_is_purged(self, stand: Stand) -> None:
        stand.send("a", "b", transient=True)
        stand.send("c")
        assert stand.broker.purge(stand.queue) == 3
        assert (stand.stats().ready, stand.drained()) == (0, [])

    def test_a_paused_queue_gives_none(self, stand: Stand) -> None:
        stand.send("a", transient=True)
        stand.broker.pause(stand.queue)
        assert stand.consumer().take(1, 0) == []
        stand.broker.resume(stand.queue)
        assert stand.drained() == ["a"]

    def test_who_waits_is_woken(self, stand: Stand) -> None:
        consumer = stand.consumer(broker=stand.other)
        batch, _ = stand.while_taking(consumer, lambda: stand.send("a", transient=True))
        assert names(batch) == ["a"]

    @pytest.mark.parametrize("due_in", [None, KEEP])
    def test_revoked_they_come_with_the_verdict(self, stand: Stand, due_in: float | None) -> None:
        if due_in is not None and not isinstance(stand.broker, Searchable):
            pytest.skip("what is delayed is not looked for")
        [data, _] = stand.send("a", "b", due_in=due_in, transient=True)
        stand.other.revoke(stand.queue, [Revocation(data[KEY])], KEEP)
        [first, *_] = [one for batch in stand.drain() for one in batch]
        assert (name_of(first.data), first.verdict) == ("a", REVOKED)

    def test_one_that_is_taken_behind_its_revocation_has_the_verdict(self, stand: Stand) -> None:
        data = message("a")
        stand.broker.revoke(stand.queue, [Revocation(data[KEY])], KEEP)
        stand.broker.send([Outgoing(stand.queue, data, transient=True)], SOON)
        [[only]] = stand.drain()
        assert only.verdict == REVOKED

    def test_they_are_found_by_what_is_in_them(self, stand: Stand) -> None:
        if not isinstance(stand.broker, Searchable):
            pytest.skip("it cannot look into its queues")
        stand.send("needle-held", transient=True)
        stand.consumer().take(1, SOON)
        stand.send("needle-ready", "hay", transient=True)
        stand.send("needle-late", due_in=KEEP, transient=True)
        found = {name_of(data) for data in stand.broker.find(stand.queue, b"needle")}
        assert found == {"needle-held", "needle-ready", "needle-late"}
