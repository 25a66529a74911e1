"""A broker that can look into its queues reaches what waits there: finds, judges, counts and deletes it."""

from __future__ import annotations

import pytest

from celeriac import clock
from celeriac.brokers.abilities import Overseeing, Searchable
from celeriac.brokers.contract import REVOKED, Outgoing, Release, Revocation
from celeriac.testing.broker_revoking import KEEP, delivered, remembered, revoke
from celeriac.testing.stand import SOON, Stand, message, name_of, names, settle


def searchable(stand: Stand) -> Searchable:
    assert isinstance(stand.other, Searchable)
    return stand.other


class Searching:
    """`find`, and what the contract says of brokers that are `Searchable`."""

    def test_it_says_that_it_can(self, stand: Stand) -> None:
        assert isinstance(stand.broker, Searchable)

    def test_it_counts_what_is_delayed_and_what_is_held(self, stand: Stand) -> None:
        stand.send("a", "b", "c")
        stand.send("late", due_in=KEEP)
        stand.consumer().take(2, SOON)
        stats = stand.broker.stats(stand.queue)
        assert (stats.ready, stats.delayed, stats.running) == (1, 1, 2)

    def test_it_deletes_what_is_delayed(self, stand: Stand) -> None:
        stand.send("a")
        stand.send("late", "later", due_in=KEEP)
        assert stand.other.purge(stand.queue) == 3
        assert stand.stats().delayed == 0

    def test_it_tells_which_of_the_revoked_are_held(self, stand: Stand) -> None:
        assert isinstance(stand.other, Overseeing)
        sent = stand.send("a", "b", "c")
        stand.consumer().take(1, SOON)
        stand.consumer().take(1, SOON)
        keys = [data[1:17] for data in [*sent, message("lost")]]
        for key in keys:
            stand.other.revoke(stand.queue, [Revocation(key)], KEEP)
        assert stand.other.held(stand.queue, keys) == set(keys[:2])
        assert stand.other.held(stand.queue, keys[1:]) == {keys[1]}
        assert stand.other.held(f"{stand.queue}-other", keys) == set()

    @pytest.mark.parametrize("place", [0, 2, 4])
    def test_a_ready_message_comes_next_and_alone(self, stand: Stand, place: int) -> None:
        sent = stand.send(*"abcde")
        assert revoke(stand, sent[place]) == [sent[place][1:17]]
        assert remembered(stand) == []
        assert stand.stats().ready == 5
        name = "abcde"[place]
        rest = [(other, None) for other in "abcde" if other != name]
        assert delivered(stand.drain()) == [[(name, REVOKED)], rest]
        assert stand.stats().ready == 0

    def test_a_delayed_message_comes_next_and_alone(self, stand: Stand) -> None:
        [_, late] = stand.send("soon", "late", due_in=KEEP)
        stand.send("a")
        assert revoke(stand, late) == [late[1:17]]
        assert (stand.stats().ready, stand.stats().delayed) == (2, 1)
        assert delivered(stand.drain()) == [[("late", REVOKED)], [("a", None)]]

    def test_a_suspect_gets_the_verdict_and_keeps_its_crashes(self, stand: Stand) -> None:
        [data] = stand.send("a")
        stand.crash()
        assert revoke(stand, data) == [data[1:17]]
        [[delivery]] = stand.drain()
        assert (delivery.crashes, delivery.verdict) == (1, REVOKED)

    def test_a_suspect_that_waits_for_its_pause_comes_at_once(self, stand: Stand) -> None:
        [data] = stand.send("a")
        stand.crash(times=2, max_deliveries=9)
        assert stand.stats().delayed == 1
        assert revoke(stand, data) == [data[1:17]]
        assert delivered(stand.drain()) == [[("a", REVOKED)]]

    def test_it_comes_before_higher_priorities(self, stand: Stand) -> None:
        low, middle = stand.send("low"), stand.send("middle", priority=5)
        stand.send("high", priority=9)
        assert set(revoke(stand, *low, *middle)) == {low[0][1:17], middle[0][1:17]}
        batches = delivered(stand.drain())
        assert sorted(batches[:2]) == [[("low", REVOKED)], [("middle", REVOKED)]]
        assert batches[2:] == [[("high", None)]]

    def test_many_are_found_among_many(self, stand: Stand) -> None:
        sent = [data for part in range(10) for data in stand.send(*(f"{part}-{i}" for i in range(1000)))]
        late = stand.send(*(f"late-{i}" for i in range(3000)), due_in=KEEP)
        chosen = [*sent[::50], *sent[4000:4200], *late[::100], *late[-40:]]
        chosen_names = {name_of(data) for data in chosen}
        assert set(revoke(stand, *chosen)) == {data[1:17] for data in chosen}
        assert remembered(stand) == []
        gone = sum(name.startswith("late") for name in chosen_names)
        assert (stand.stats().ready, stand.stats().delayed) == (10_000 + gone, 3000 - gone)
        batches = stand.drain(limit=1000)
        judged = [one for batch in batches for one in batch if one.verdict == REVOKED]
        assert {name_of(one.data) for one in judged} == chosen_names
        assert len(judged) == len(chosen_names)
        assert all(len(batch) == 1 for batch in batches if batch[0].verdict)
        rest = [name for batch in batches for name in names(batch) if batch[0].verdict is None]
        assert rest == [name_of(data) for data in sent if name_of(data) not in chosen_names]

    def test_all_of_a_queue_is_revoked(self, stand: Stand) -> None:
        sent = stand.send(*(str(i) for i in range(300)))
        assert len(revoke(stand, *sent)) == 300
        assert stand.stats().ready == 300
        assert [len(batch) for batch in stand.drain()] == [1] * 300
        assert (stand.stats().ready, stand.stats().running) == (0, 0)
        stand.send("next")
        assert delivered(stand.drain()) == [[("next", None)]]

    def test_revoked_twice_it_is_delivered_once(self, stand: Stand) -> None:
        [data] = stand.send("a")
        assert revoke(stand, data) == revoke(stand, data, data) == [data[1:17]]
        assert delivered(stand.drain()) == [[("a", REVOKED)]]

    def test_the_revoked_are_purged(self, stand: Stand) -> None:
        sent = stand.send("a", "b", "c")
        revoke(stand, sent[1])
        assert stand.broker.purge(stand.queue) == 3
        assert stand.stats().ready == 0
        stand.broker.send([Outgoing(stand.queue, sent[1])], SOON)
        assert delivered(stand.drain()) == [[("b", None)]]

    def test_a_paused_queue_gives_no_revoked_ones(self, stand: Stand) -> None:
        [data] = stand.send("a")
        stand.broker.pause(stand.queue)
        assert revoke(stand, data) == [data[1:17]]
        assert stand.consumer().take(1, 0) == []
        stand.broker.resume(stand.queue)
        assert delivered(stand.drain()) == [[("a", REVOKED)]]

    def test_a_waiting_take_is_woken(self, stand: Stand) -> None:
        [data] = stand.send("a", due_in=KEEP)
        taken, seconds = stand.while_taking(stand.consumer(), lambda: revoke(stand, data))
        assert delivered([taken]) == [[("a", REVOKED)]]
        assert seconds < SOON

    def test_messages_are_found_by_a_part_of_them_wherever_they_are(self, stand: Stand) -> None:
        stand.send(*(f"red-{n}" if n % 100 == 0 else f"blue-{n}" for n in range(2500)))
        stand.send("red-urgent", priority=7)
        stand.send("red-late", "blue-late", due_in=60.0)
        stand.send(*(f"late-{n}" for n in range(1200)), due_in=90.0)
        consumer = stand.consumer()
        held = consumer.take(2, 0.0)
        assert "red-urgent" in [name_of(one.data) for one in held]
        found = [name_of(data) for data in searchable(stand).find(stand.queue, b"red-")]
        assert sorted(found) == sorted(["red-urgent", "red-late", *(f"red-{n}" for n in range(0, 2500, 100))])
        assert list(searchable(stand).find(stand.queue, b"green")) == []

    def test_stats_tell_when_the_message_that_waits_longest_was_made(self, stand: Stand) -> None:
        for name, priority, age in (("b", 0, 50.0), ("c", 9, 10.0), ("d", 0, 5.0)):
            stand.broker.send([Outgoing(stand.queue, message(name, age=age), priority)], SOON)
        oldest = stand.stats().oldest_at
        assert oldest is not None
        assert abs(clock.now() - 50 - oldest) < SOON
        consumer = stand.consumer()
        assert names(consumer.take(2, SOON)) == ["c", "b"]
        oldest = stand.stats().oldest_at
        assert oldest is not None
        assert abs(clock.now() - 5 - oldest) < SOON
        consumer.take(1, SOON)
        assert stand.stats().oldest_at is None

    def test_a_released_message_keeps_its_priority(self, stand: Stand) -> None:
        consumer = stand.consumer()
        stand.send("low")
        stand.send("middle", priority=5)
        batch = consumer.take(1, SOON)
        stand.send("middle 2", priority=5)
        stand.send("high", priority=9)
        settle(consumer, batch, Release())
        assert stand.drained() == ["high", "middle", "middle 2", "low"]
