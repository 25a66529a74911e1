"""Owners die, are cut off, or get stuck: what they hold comes back, and is run by one."""

from __future__ import annotations

import pytest

from celeriac import clock
from celeriac.brokers.contract import (
    CRASHED,
    LAST_TRIES,
    Ack,
    Bury,
    Casualty,
    Delivery,
    Outgoing,
    PutBack,
    Release,
    Settlement,
    crash_pause,
)
from celeriac.exceptions import LeaseLost
from celeriac.testing.stand import (
    PATIENCE,
    SHORT,
    SOON,
    Stand,
    casualty_of,
    message,
    name_of,
    names,
    pause,
    settle,
    until,
)


class Leases:
    """`renew`, `surrender`, `Consumer.close`, crash counts, suspects and the amnesty."""

    # -- renewed -------------------------------------------------------------------------------------------

    def test_a_renewed_lease_holds_while_its_consumer_is_stuck(self, stand: Stand) -> None:
        stand.send("a", "b")
        stuck, idle = stand.consumer(lease=SHORT), stand.consumer(broker=stand.other)
        batch = stuck.take(2, SOON)
        assert stand.keep_alive(stand.other, stuck.owner) == []
        assert idle.take(10, 0) == []
        assert stuck.confirm(batch) == []
        assert settle(stuck, batch) == []

    def test_one_renewal_serves_many_owners(self, stand: Stand) -> None:
        stand.send(*"abc")
        consumers = [stand.consumer(lease=SHORT) for _ in range(3)]
        held = [(consumer, consumer.take(1, SOON)) for consumer in consumers]
        assert stand.keep_alive(stand.other, *(c.owner for c in consumers), leases=2) == []
        assert [settle(consumer, batch) for consumer, batch in held] == [[], [], []]

    def test_an_owner_that_has_settled_everything_is_not_lost(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        settle(consumer, consumer.take(1, SOON))
        assert stand.other.renew([stand.queue], [consumer.owner], 60.0, 3) == []

    def test_renew_names_the_owners_that_it_does_not_know(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        consumer.take(1, SOON)
        owners = ["never-known", consumer.owner, "nor-this"]
        assert sorted(stand.broker.renew([stand.queue], owners, 60.0, 3)) == ["never-known", "nor-this"]
        assert stand.broker.renew([stand.queue], [], 60.0, 3) == []

    def test_renew_names_the_owner_whose_lease_has_ended(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer(lease=SHORT)
        consumer.take(1, SOON)
        owner = consumer.owner
        stand.expire()
        assert stand.broker.renew([stand.queue], [owner], SHORT, 3) == [owner]
        assert stand.other.renew([stand.queue], [owner], SHORT, 3) == [owner]

    # -- expired -------------------------------------------------------------------------------------------

    def test_what_an_expired_lease_held_is_delivered_to_others_as_suspects(self, stand: Stand) -> None:
        stand.send(*"abc")
        dead = stand.consumer(lease=SHORT)
        assert len(dead.take(3, SOON)) == 3
        stand.expire()
        stand.send("fresh 1", "fresh 2")
        batches = stand.drain(broker=stand.other)
        crashes = {name: d.crashes for batch in batches for name, d in zip(names(batch), batch, strict=True)}
        assert crashes == {"a": 1, "b": 1, "c": 1, "fresh 1": 0, "fresh 2": 0}
        assert all(len(batch) == 1 for batch in batches if any(d.crashes for d in batch))

    def test_a_lease_that_is_not_renewed_ends_while_others_are(self, stand: Stand) -> None:
        stand.send("a", "b")
        dead, alive = stand.consumer(lease=SHORT), stand.consumer(lease=SHORT, broker=stand.other)
        dead.take(1, SOON)
        mine = alive.take(1, SOON)
        stand.expire(running=1, keep=[alive.owner])
        assert alive.confirm(mine) == []
        [heirloom] = alive.take(10, SOON)
        assert (names([heirloom]), heirloom.crashes) == (["a"], 1)

    def test_the_old_owner_is_told_and_starts_again_under_a_new_name(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer(lease=SHORT)
        [old] = consumer.take(1, SOON)
        owner = consumer.owner
        stand.expire()
        with pytest.raises(LeaseLost):
            consumer.take(1, 0)
        assert consumer.owner != owner
        [new] = consumer.take(1, SOON)
        assert (new.data, new.owner, new.crashes) == (old.data, consumer.owner, 1)
        assert new.fence > old.fence
        assert settle(consumer, [old]) == [old]
        assert settle(consumer, [new]) == []

    def test_at_the_limit_an_expired_message_becomes_a_dead_letter(self, stand: Stand) -> None:
        [data] = stand.send("poison")
        stand.consumer(lease=SHORT, max_deliveries=1).take(1, SOON)
        stand.expire(max_deliveries=1)
        assert stand.bury_judged().data == data
        [letter] = stand.broker.dead(stand.queue)
        assert (letter.data, letter.reason) == (data, CRASHED)
        assert ["lease expired" in casualty.cause for casualty in letter.casualties] == [True]
        assert stand.drained() == []

    def test_a_waiting_take_is_woken_when_a_lease_ends(self, stand: Stand) -> None:
        stand.send("a")
        stand.consumer(lease=SHORT).take(1, SOON)
        waiting = stand.start(stand.consumer(broker=stand.other).take, 1, PATIENCE)

        def keep_house_until_it_has_it() -> bool:
            stand.broker.renew([stand.queue], [], SHORT, 3)
            return waiting.done()

        until(keep_house_until_it_has_it, "the waiting take has the message", every=SHORT / 8)
        assert names(waiting.result(5.0)) == ["a"]

    # -- amnesty -------------------------------------------------------------------------------------------

    def test_a_lease_is_not_shortened_by_a_worker_that_has_a_shorter_one(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        batch = consumer.take(1, SOON)
        stand.broker.renew([stand.queue], [], SHORT, 3)
        pause(SHORT)
        stand.keep_alive(stand.broker, leases=2.0)
        assert settle(consumer, batch) == []

    def test_where_nobody_kept_house_leases_are_lengthened_rather_than_ended(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer(lease=SHORT)
        batch = consumer.take(1, SOON)
        stand.broker.renew([stand.queue], [consumer.owner], SHORT, 3)
        pause(SHORT * 2)
        assert stand.consumer(broker=stand.other, lease=SHORT).take(1, 0) == []
        assert stand.broker.renew([stand.queue], [], SHORT, 3) == []
        assert stand.stats().running == 1
        assert stand.broker.renew([stand.queue], [consumer.owner], SHORT, 3) == []
        assert settle(consumer, batch) == []

    def test_an_owner_that_renews_itself_after_a_long_silence_is_not_lost(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer(lease=SHORT)
        batch = consumer.take(1, SOON)
        stand.broker.renew([stand.queue], [consumer.owner], SHORT, 3)
        pause(SHORT * 2)
        assert stand.broker.renew([stand.queue], [consumer.owner], SHORT, 3) == []
        assert settle(consumer, batch) == []

    # -- surrendered ---------------------------------------------------------------------------------------

    def test_a_dead_process_is_counted_against_what_it_ran_and_nothing_else(self, stand: Stand) -> None:
        stand.send(*"abcd")
        dead = stand.consumer()
        batch = dead.take(3, SOON)
        casualties = {batch[1].key: casualty_of("signal 9 (SIGKILL)")}
        assert stand.other.surrender([stand.queue], dead.owner, casualties, {}, 3) == 3
        assert stand.stats().running == 0
        batches = stand.drain()
        assert {n: d.crashes for b in batches for n, d in zip(names(b), b, strict=True)} == {
            "a": 0, "b": 1, "c": 0, "d": 0
        }  # fmt: skip
        assert [n for b in batches for n in names(b) if n != "b"] == ["a", "c", "d"]
        assert ["b"] in [names(b) for b in batches]

    def test_a_casualty_of_zero_casualties_is_only_given_back(self, stand: Stand) -> None:
        stand.send(*"abcde")
        dead = stand.consumer()
        dead.take(3, SOON)
        assert stand.broker.surrender([stand.queue], dead.owner, {}, {}, 3) == 3
        batches = stand.drain()
        assert [n for b in batches for n in names(b)] == ["a", "b", "c", "d", "e"]
        assert {d.crashes for b in batches for d in b} == {0}

    def test_a_surrendered_owner_is_lost(self, stand: Stand) -> None:
        stand.send("a")
        dead = stand.consumer()
        batch = dead.take(1, SOON)
        owner = dead.owner
        assert stand.other.surrender([stand.queue], owner, {}, {}, 3) == 1
        assert stand.other.surrender([stand.queue], owner, {}, {}, 3) == 0
        assert stand.broker.renew([stand.queue], [owner], 60.0, 3) == [owner]
        assert settle(dead, batch) == batch
        with pytest.raises(LeaseLost):
            dead.take(1, 0)
        assert names(dead.take(1, SOON)) == ["a"]

    def test_a_take_that_waits_gets_nothing_more_under_a_surrendered_name(self, stand: Stand) -> None:
        stand.send("a")
        dead = stand.consumer()
        dead.take(1, SOON)
        owner = dead.owner
        try:
            taken, _ = stand.while_taking(
                dead, lambda: stand.other.surrender([stand.queue], owner, {}, {}, 3), timeout=1.0
            )
        except LeaseLost:
            taken = []
        assert owner not in {delivery.owner for delivery in taken}
        assert dead.confirm(taken) == []

    def test_an_unknown_owner_holds_nothing(self, stand: Stand) -> None:
        stand.send("a")
        held = stand.consumer().take(1, SOON)
        casualties = {held[0].key: casualty_of("exit code 3")}
        assert stand.broker.surrender([stand.queue], "never-known", casualties, {}, 3) == 0
        assert stand.stats().running == 1

    def test_neighbours_keep_what_they_hold(self, stand: Stand) -> None:
        stand.send("a", "b")
        dead, alive = stand.consumer(), stand.consumer(broker=stand.other)
        dead.take(1, SOON)
        batch = alive.take(1, SOON)
        everybody = {d.key: casualty_of("exit code 3") for d in batch}
        assert stand.broker.surrender([stand.queue], dead.owner, everybody, {}, 3) == 1
        assert alive.confirm(batch) == []
        assert settle(alive, batch) == []

    def test_a_dead_process_gives_back_what_it_held_of_every_queue(self, stand: Stand) -> None:
        second = stand.new_queue()
        dead = stand.consumer(stand.queue, second)
        stand.send("a")
        stand.send("b", queue=second)
        held: list[Delivery] = []
        while batch := dead.take(1, 0):
            held += batch
        casualties = {d.key: casualty_of("signal 11 (SIGSEGV)") for d in held}
        assert stand.broker.surrender([stand.queue, second], dead.owner, casualties, {}, 3) == 2
        batches = stand.drain(stand.queue, second)
        assert sorted((d.queue, d.crashes) for b in batches for d in b) == sorted(
            [(stand.queue, 1), (second, 1)]
        )

    def test_a_verdict_comes_back_with_its_message_alone_and_uncounted(self, stand: Stand) -> None:
        stand.send(*"abcd")
        dead = stand.consumer()
        batch = dead.take(3, SOON)
        stand.broker.surrender([stand.queue], dead.owner, {}, {batch[0].key: "hard time limit"}, 3)
        batches = stand.drain(broker=stand.other)
        [judged] = [d for b in batches for d in b if names([d]) == ["a"]]
        assert (judged.verdict, judged.crashes) == ("hard time limit", 0)
        assert ["a"] in [names(b) for b in batches]
        assert {d.verdict for b in batches for d in b if d is not judged} == {None}

    def test_a_verdict_may_be_any_text_and_its_message_is_settled_as_any(self, stand: Stand) -> None:
        [data] = stand.send("a")
        dead = stand.consumer()
        dead.take(1, SOON)
        stand.broker.surrender([stand.queue], dead.owner, {}, {data[1:17]: "révoqué: \x00 \n €"}, 3)
        heir = stand.consumer()
        [judged] = heir.take(10, SOON)
        assert judged.verdict == "révoqué: \x00 \n €"
        follow_up = Outgoing(stand.queue, message("errback"))
        assert heir.settle([Settlement(judged, Bury("revoked"), [follow_up])]) == []
        assert names(heir.take(10, SOON)) == ["errback"]

    def test_a_verdict_survives_the_death_of_its_next_owner(self, stand: Stand) -> None:
        [data] = stand.send("a")
        first, second = stand.consumer(), stand.consumer()
        first.take(1, SOON)
        stand.broker.surrender([stand.queue], first.owner, {}, {data[1:17]: "revoked"}, 3)
        second.take(1, SOON)
        stand.broker.surrender([stand.queue], second.owner, {}, {}, 3)
        [judged] = stand.consumer().take(1, SOON)
        assert (judged.verdict, judged.crashes) == ("revoked", 0)

    def test_a_waiting_take_is_woken_when_a_process_is_surrendered(self, stand: Stand) -> None:
        stand.send("a")
        dead = stand.consumer()
        dead.take(1, SOON)
        taken, seconds = stand.while_taking(
            stand.consumer(broker=stand.other),
            lambda: stand.broker.surrender([stand.queue], dead.owner, {}, {}, 3),
        )
        assert names(taken) == ["a"]
        assert seconds < SOON

    # -- poison --------------------------------------------------------------------------------------------

    def test_at_the_limit_a_message_goes_to_the_dead_letters_with_its_history(self, stand: Stand) -> None:
        [data] = stand.send("poison")
        history = [
            Casualty("signal 9 (SIGKILL)", 1_700_000_000.5, "one@host", 123_456_789),
            Casualty("exit code 3", 1_700_000_001.25, "two@host", None),
            Casualty("signal 11 (SIGSEGV)", 1_700_000_002.75, "thrëe@host", 2**33),
        ]
        for crashes, casualty in enumerate(history):
            dead = stand.consumer()
            [delivery] = dead.take(10, SOON)
            assert delivery.crashes == crashes
            assert stand.other.surrender([stand.queue], dead.owner, {data[1:17]: casualty}, {}, 3) == 1
        assert (stand.stats().ready, stand.stats().dead) == (1, 0)
        judged = stand.bury_judged()
        assert (judged.crashes, judged.verdict) == (
            3, "crashed:its process died 3 times, last by signal 11 (SIGSEGV)"
        )  # fmt: skip
        assert stand.drained() == []
        [letter] = stand.broker.dead(stand.queue)
        assert (letter.data, list(letter.casualties)) == (data, history)
        assert (letter.reason, letter.detail) == tuple((judged.verdict or "").split(":", 1))
        assert (stand.stats().ready, stand.stats().running, stand.stats().dead) == (0, 0, 1)

    def test_what_kills_those_who_bury_it_too_is_buried_by_the_broker(self, stand: Stand) -> None:
        [data] = stand.send("poison")
        stand.crash(times=1 + LAST_TRIES, max_deliveries=1)
        [letter] = stand.broker.dead(stand.queue)
        assert (letter.data, letter.reason) == (data, CRASHED)
        assert len(letter.casualties) == 1 + LAST_TRIES
        assert (stand.stats().ready, stand.stats().delayed) == (0, 0)

    def test_what_is_to_be_buried_stays_so_when_it_is_given_back(self, stand: Stand) -> None:
        stand.send("poison")
        stand.crash(times=1, max_deliveries=1)
        consumer = stand.consumer()
        assert settle(consumer, consumer.take(1, SOON), Release()) == []
        consumer.take(1, SOON)
        consumer.close()
        assert stand.bury_judged().crashes == 1
        assert (stand.stats().ready, stand.stats().dead) == (0, 1)

    def test_a_buried_suspect_keeps_its_history(self, stand: Stand) -> None:
        stand.send("a")
        stand.crash()
        consumer = stand.consumer()
        settle(consumer, consumer.take(1, SOON), Bury("failed"))
        [letter] = stand.broker.dead(stand.queue)
        assert [casualty.cause for casualty in letter.casualties] == ["signal 9 (SIGKILL)"]

    def test_suspects_are_delivered_alone(self, stand: Stand) -> None:
        stand.send(*"ab")
        dead = stand.consumer()
        casualties = {d.key: casualty_of("exit code 1") for d in dead.take(2, SOON)}
        stand.broker.surrender([stand.queue], dead.owner, casualties, {}, 3)
        stand.send(*"cdef")
        consumer = stand.consumer()
        batches: list[list[Delivery]] = []
        while batch := consumer.take(10, 0):
            batches.append(batch)
        assert sorted(names(d for b in batches for d in b)) == list("abcdef")
        assert sorted(len(b) for b in batches if b[0].crashes) == [1, 1]
        assert all(d.crashes == 0 for b in batches if len(b) > 1 for d in b)

    def test_after_a_second_crash_it_is_delivered_again_after_a_pause(self, stand: Stand) -> None:
        stand.send("a", "b")
        began = 0.0
        for crash in (1, 2):
            dead = stand.consumer()
            [delivery] = dead.take(1, SOON) if crash == 1 else dead.take(1, 0)
            assert name_of(delivery.data) == "a"
            casualties = {delivery.key: casualty_of(f"exit code {crash}")}
            began = clock.monotonic()
            stand.other.surrender([stand.queue], dead.owner, casualties, {}, 5)
        assert stand.stats().delayed == 1
        assert stand.drained() == ["b"]
        [again] = stand.consumer().take(1, PATIENCE)
        assert (name_of(again.data), again.crashes) == ("a", 2)
        assert clock.monotonic() - began > crash_pause(2) - 0.1

    def test_what_is_put_back_keeps_its_history(self, stand: Stand) -> None:
        stand.send("a")
        dead = stand.consumer()
        [delivery] = dead.take(1, SOON)
        casualties = {delivery.key: casualty_of("signal 9 (SIGKILL)")}
        stand.other.surrender([stand.queue], dead.owner, casualties, {}, 5)
        consumer = stand.consumer()
        [suspect] = consumer.take(1, SOON)
        changed = suspect.data + b" changed"
        assert settle(consumer, [suspect], PutBack(changed, clock.now() + 0.1)) == []
        assert stand.stats().delayed == 1
        [again] = consumer.take(1, PATIENCE)
        assert (name_of(again.data), again.crashes, again.verdict) == ("a changed", 1, None)

    def test_what_is_put_back_keeps_its_verdict(self, stand: Stand) -> None:
        stand.send("a")
        dead = stand.consumer()
        [delivery] = dead.take(1, SOON)
        stand.other.surrender([stand.queue], dead.owner, {}, {delivery.key: "worker_lost"}, 5)
        consumer = stand.consumer()
        [judged] = consumer.take(1, SOON)
        assert settle(consumer, [judged], PutBack(judged.data, clock.now() + 0.1)) == []
        [again] = consumer.take(1, PATIENCE)
        assert (again.crashes, again.verdict) == (0, "worker_lost")

    def test_giving_back_a_suspect_counts_nothing_and_forgets_nothing(self, stand: Stand) -> None:
        stand.send("a")
        stand.crash()
        first, second = stand.consumer(), stand.consumer()
        [suspect] = first.take(1, SOON)
        assert suspect.crashes == 1
        settle(first, [suspect], Release())
        [suspect] = second.take(1, SOON)
        assert suspect.crashes == 1
        stand.broker.surrender([stand.queue], second.owner, {}, {}, 3)
        [suspect] = first.take(1, SOON)
        assert suspect.crashes == 1
        first.close()
        [suspect] = stand.consumer().take(1, SOON)
        assert suspect.crashes == 1

    def test_a_message_that_was_settled_leaves_no_crash_count_behind(self, stand: Stand) -> None:
        [data] = stand.send("a")
        stand.crash(times=2)
        consumer = stand.consumer()
        [suspect] = consumer.take(1, SOON)
        assert suspect.crashes == 2
        assert consumer.settle([Settlement(suspect, Ack())]) == []
        stand.broker.send([Outgoing(stand.queue, data)], SOON)
        [delivery] = consumer.take(1, SOON)
        assert delivery.crashes == 0

    # -- closed --------------------------------------------------------------------------------------------

    def test_closing_gives_back_what_is_held_in_order_and_uncounted(self, stand: Stand) -> None:
        stand.send(*"abcd")
        consumer = stand.consumer()
        batch = consumer.take(3, SOON)
        settle(consumer, batch[:1])
        consumer.close()
        consumer.close()
        batches = stand.drain(broker=stand.other)
        assert [n for b in batches for n in names(b)] == ["b", "c", "d"]
        assert {d.crashes for b in batches for d in b} == {0}

    def test_closing_ends_the_lease(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        consumer.take(1, SOON)
        owner = consumer.owner
        consumer.close()
        assert stand.broker.renew([stand.queue], [owner], 60.0, 3) == [owner]

    def test_closing_wakes_others_for_what_is_given_back(self, stand: Stand) -> None:
        stand.send("a")
        leaving = stand.consumer()
        leaving.take(1, SOON)
        taken, seconds = stand.while_taking(stand.consumer(broker=stand.other), leaving.close)
        assert names(taken) == ["a"]
        assert seconds < SOON

    def test_closing_after_a_lost_lease_gives_nothing_back(self, stand: Stand) -> None:
        stand.send("a")
        lost, heir = stand.consumer(lease=SHORT), stand.consumer(broker=stand.other)
        lost.take(1, SOON)
        stand.expire()
        batch = heir.take(1, SOON)
        lost.close()
        assert heir.confirm(batch) == []
        assert (stand.stats().ready, stand.stats().running) == (0, 1)
