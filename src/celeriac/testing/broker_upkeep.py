"""People look at queues and tidy them: counts, pauses, purges, dead letters."""

from __future__ import annotations

import pytest

from celeriac import clock
from celeriac.brokers.abilities import Foretells
from celeriac.brokers.contract import (
    Bury,
    DeadLetter,
    Outgoing,
    QueueStats,
    Release,
    Replace,
    Settlement,
)
from celeriac.brokers.pruning import Pruned
from celeriac.testing.stand import SOON, Stand, casualty_of, message, name_of, names, pause, settle


class Upkeep:
    """`queues`, `stats`, `purge`, `pause`, `resume` and the dead letters."""

    # -- what there is -------------------------------------------------------------------------------------

    def test_queues_names_every_queue_that_was_ever_sent_to(self, stand: Stand) -> None:
        ready, delayed, follow_up, successor = (stand.new_queue() for _ in range(4))
        stand.send("a", "b", queue=ready)
        stand.send("c", queue=delayed, due_in=3600)
        consumer = stand.consumer(ready)
        a, b = consumer.take(2, SOON)
        consumer.settle([
            Settlement(a, Bury("told to"), [Outgoing(follow_up, message("d"))]),
            Settlement(b, Replace(Outgoing(successor, message("e")))),
        ])  # fmt: skip
        assert stand.drained(successor) == ["e"]
        named = stand.other.queues()
        assert named == sorted(named)
        assert {ready, delayed, follow_up, successor} <= set(named)
        assert stand.queue not in named

    def test_a_queue_that_was_never_used_is_empty(self, stand: Stand) -> None:
        assert stand.stats() == QueueStats(stand.queue, 0, 0, 0, 0)

    def test_stats_tell_in_which_state_messages_are(self, stand: Stand) -> None:
        stand.send(*"abcdef")
        stand.send("g", priority=9, due_in=3600)
        stand.send("h", due_in=3600)
        consumer = stand.consumer()
        batch = consumer.take(4, SOON)
        settle(consumer, batch[:1], Bury("told to"))
        settle(consumer, batch[1:2])
        stats = stand.stats(broker=stand.other)
        assert (stats.queue, stats.ready, stats.delayed, stats.running, stats.dead, stats.paused) == (
            stand.queue, 2, 2, 2, 1, False
        )  # fmt: skip
        settle(consumer, batch[2:3], Release())
        stats = stand.stats()
        assert (stats.ready, stats.delayed, stats.running, stats.dead) == (3, 2, 1, 1)

    def test_what_falls_due_next_is_told_of_and_stays(self, stand: Stand) -> None:
        if not isinstance(stand.broker, Foretells):
            pytest.skip("this broker does not tell what falls due next")
        assert stand.broker.delayed(stand.queue, 10) == []
        for name, due_in in (("c", 3000.0), ("a", 1000.0), ("b", 2000.0)):
            stand.send(name, due_in=due_in, priority=len(name))
        stand.send("ready")
        now = clock.now()
        found = stand.broker.delayed(stand.queue, 2)
        assert [name_of(data) for _, data in found] == ["a", "b"]
        assert [round((due_at - now) / 1000.0) for due_at, _ in found] == [1, 2]
        assert stand.stats().delayed == 3

    def test_suspects_and_urgent_messages_count_as_ready(self, stand: Stand) -> None:
        stand.send("a")
        stand.crash()
        stand.send("b", priority=9)
        stand.send("c", priority=1)
        stats = stand.stats()
        assert (stats.ready, stats.running) == (3, 0)

    # -- purge ---------------------------------------------------------------------------------------------

    def test_purge_deletes_what_waits_and_nothing_else(self, stand: Stand) -> None:
        second = stand.new_queue()
        stand.send("other", queue=second)
        stand.send(*"abcde")
        consumer = stand.consumer()
        batch = consumer.take(2, SOON)
        settle(consumer, batch[:1], Bury("told to"))
        stand.send("f", priority=9)
        assert stand.other.purge(stand.queue) == 4
        stats = stand.stats()
        assert (stats.ready, stats.delayed, stats.running, stats.dead) == (0, 0, 1, 1)
        assert settle(consumer, batch[1:]) == []
        assert stand.other.purge(stand.queue) == 0
        assert stand.stats(second).ready == 1

    def test_a_purged_queue_goes_on(self, stand: Stand) -> None:
        stand.send("a")
        stand.broker.purge(stand.queue)
        stand.send("b")
        assert stand.drained() == ["b"]

    def test_purge_deletes_suspects_too(self, stand: Stand) -> None:
        stand.send("a")
        stand.crash()
        assert stand.broker.purge(stand.queue) == 1
        assert stand.drained() == []

    # -- pause ---------------------------------------------------------------------------------------------

    def test_a_paused_queue_gives_nothing_and_goes_on_receiving(self, stand: Stand) -> None:
        consumer = stand.consumer(broker=stand.other)
        stand.send("a")
        stand.broker.pause(stand.queue)
        stand.send("b")
        stand.send("c", due_in=-1.0)
        assert consumer.take(10, 0) == []
        assert stand.consumer().take(10, 0.1) == []
        assert stand.other.stats(stand.queue).paused
        stand.other.resume(stand.queue)
        assert not stand.stats().paused
        assert sorted(stand.drained()) == ["a", "b", "c"]

    def test_a_pause_outlives_the_connection_that_made_it(self, stand: Stand) -> None:
        stand.send("a")
        stand.other.pause(stand.queue)
        stand.other.close()
        assert stand.consumer(broker=stand.broker).take(1, 0) == []
        assert stand.consumer(broker=stand.other).take(1, 0) == []

    def test_a_paused_queue_gives_no_suspects(self, stand: Stand) -> None:
        stand.send("a")
        stand.crash()
        stand.broker.pause(stand.queue)
        assert stand.consumer().take(1, 0) == []
        stand.broker.resume(stand.queue)
        assert stand.drained() == ["a"]

    def test_what_runs_is_settled_during_a_pause(self, stand: Stand) -> None:
        stand.send("a", "b")
        consumer = stand.consumer()
        a, b = consumer.take(2, SOON)
        stand.broker.pause(stand.queue)
        assert settle(consumer, [a]) == []
        assert settle(consumer, [b], Release()) == []
        assert consumer.take(1, 0) == []
        assert stand.stats().ready == 1

    def test_other_queues_of_a_consumer_go_on_during_a_pause(self, stand: Stand) -> None:
        second = stand.new_queue()
        stand.broker.pause(stand.queue)
        stand.send("a")
        stand.send("b", "c", queue=second)
        consumer = stand.consumer(stand.queue, second)
        assert names([*consumer.take(1, SOON), *consumer.take(1, SOON)]) == ["b", "c"]
        assert consumer.take(1, 0) == []

    def test_a_waiting_take_is_woken_when_its_queue_is_resumed(self, stand: Stand) -> None:
        stand.broker.pause(stand.queue)
        stand.send("a")
        consumer = stand.consumer()
        taken, seconds = stand.while_taking(consumer, lambda: stand.other.resume(stand.queue))
        assert names(taken) == ["a"]
        assert seconds < SOON

    def test_a_take_that_waits_gets_nothing_from_a_queue_paused_meanwhile(self, stand: Stand) -> None:
        def pause_and_send() -> None:
            stand.broker.pause(stand.queue)
            stand.send("a")

        taken, _ = stand.while_taking(stand.consumer(), pause_and_send, timeout=0.4)
        assert taken == []
        assert stand.stats().ready == 1

    def test_pausing_and_resuming_twice_is_harmless(self, stand: Stand) -> None:
        stand.broker.resume(stand.queue)
        stand.broker.pause(stand.queue)
        stand.broker.pause(stand.queue)
        stand.broker.resume(stand.queue)
        stand.broker.resume(stand.queue)
        stand.send("a")
        assert stand.drained() == ["a"]

    # -- dead letters --------------------------------------------------------------------------------------

    def test_dead_letters_come_in_pages_oldest_first(self, stand: Stand) -> None:
        bury(stand, *(str(i) for i in range(25)))
        pages: list[list[str]] = []
        after: bytes | None = None
        while page := stand.other.dead(stand.queue, after=after, limit=10):
            pages.append(letters(page))
            after = page[-1].key
        assert [len(page) for page in pages] == [10, 10, 5]
        assert [name for page in pages for name in page] == [str(i) for i in range(25)]

    def test_dead_letters_are_the_queues_own(self, stand: Stand) -> None:
        bury(stand, "a")
        second = stand.new_queue()
        assert stand.broker.dead(second) == []
        [key] = keys(stand)
        assert stand.broker.find_dead(second, key) is None
        assert stand.broker.drop(second, [key]) == stand.broker.replay(second, [key]) == 0

    def test_a_dead_letter_is_found_by_its_key(self, stand: Stand) -> None:
        bury(stand, "a", "b")
        key = keys(stand)[1]
        found = stand.other.find_dead(stand.queue, key)
        assert found is not None
        assert (found.key, name_of(found.data), found.reason) == (key, "b", "told to")
        assert stand.broker.find_dead(stand.queue, b"\x00" * 16) is None

    def test_a_dropped_letter_is_gone(self, stand: Stand) -> None:
        bury(stand, *"abc")
        dropped = [keys(stand)[1], b"\x00" * 16]
        assert stand.other.drop(stand.queue, dropped) == 1
        assert stand.other.drop(stand.queue, dropped) == 0
        assert letters(stand.broker.dead(stand.queue)) == ["a", "c"]
        assert stand.stats().dead == 2
        assert stand.broker.find_dead(stand.queue, dropped[0]) is None

    def test_a_replayed_letter_runs_again_with_its_crashes_forgotten(self, stand: Stand) -> None:
        [data] = stand.send("poison")
        stand.crash(times=3)
        stand.bury_judged()
        assert stand.stats().dead == 1
        assert stand.other.replay(stand.queue, [data[1:17], b"\x00" * 16]) == 1
        assert stand.other.replay(stand.queue, [data[1:17]]) == 0
        assert (stand.stats().dead, stand.stats().ready) == (0, 1)
        stand.send("neighbour")
        batch = stand.consumer().take(10, SOON)
        assert sorted((name_of(d.data), d.crashes) for d in batch) == [("neighbour", 0), ("poison", 0)]
        assert next(d.data for d in batch if name_of(d.data) == "poison") == data

    def test_a_replayed_letter_that_dies_again_starts_a_new_history(self, stand: Stand) -> None:
        [data] = stand.send("poison")
        stand.crash(times=2, max_deliveries=2)
        stand.bury_judged()
        stand.broker.replay(stand.queue, [data[1:17]])
        stand.crash(times=1, max_deliveries=2)
        assert stand.stats().dead == 0
        victim = stand.consumer()
        [delivery] = victim.take(1, SOON)
        assert delivery.crashes == 1
        stand.broker.surrender([stand.queue], victim.owner, {delivery.key: casualty_of("exit code 9")}, {}, 2)
        stand.bury_judged()
        [letter] = stand.broker.dead(stand.queue)
        assert [c.cause for c in letter.casualties] == ["signal 9 (SIGKILL)", "exit code 9"]

    def test_many_letters_are_replayed_or_dropped_at_once(self, stand: Stand) -> None:
        bury(stand, *(str(i) for i in range(300)))
        every = keys(stand, limit=1000)
        assert len(every) == 300
        assert stand.broker.replay(stand.queue, every[:200]) == 200
        assert stand.broker.drop(stand.queue, every) == 100
        assert sorted(stand.drained(limit=50)) == sorted(str(i) for i in range(200))

    def test_a_waiting_take_is_woken_by_a_replay(self, stand: Stand) -> None:
        bury(stand, "a")
        [key] = keys(stand)
        taken, seconds = stand.while_taking(stand.consumer(), lambda: stand.other.replay(stand.queue, [key]))
        assert names(taken) == ["a"]
        assert seconds < SOON

    @pytest.mark.parametrize("verb", ["replay", "drop"])
    def test_no_keys_are_no_letters(self, stand: Stand, verb: str) -> None:
        bury(stand, "a")
        assert getattr(stand.broker, verb)(stand.queue, []) == 0
        assert stand.stats().dead == 1

    # -- their limits --------------------------------------------------------------------------------------

    def test_of_too_many_letters_the_oldest_are_deleted_and_counted(self, stand: Stand) -> None:
        bury(stand, *"abcde")
        oldest = keys(stand)[0]
        assert stand.other.prune_dead(stand.queue, 3, None) == Pruned(0, 2, oldest)
        assert letters(stand.broker.dead(stand.queue)) == ["c", "d", "e"]
        assert (stand.stats().dead, stand.stats().evicted) == (3, 2)
        assert stand.broker.prune_dead(stand.queue, 1, None).surplus == 2
        assert (stand.stats().dead, stand.other.stats(stand.queue).evicted) == (1, 4)

    def test_letters_that_are_too_old_are_deleted_and_counted(self, stand: Stand) -> None:
        bury(stand, "a", "b")
        old = keys(stand)
        pause(1.2)
        bury(stand, "c")
        assert stand.other.prune_dead(stand.queue, 10, 1.0) == Pruned(2, 0, old[0])
        assert letters(stand.broker.dead(stand.queue)) == ["c"]
        assert [stand.broker.find_dead(stand.queue, key) for key in old] == [None, None]
        assert (stand.stats().dead, stand.stats().evicted) == (1, 2)

    def test_within_the_limits_no_letter_is_deleted(self, stand: Stand) -> None:
        bury(stand, "a", "b")
        assert stand.broker.prune_dead(stand.queue, None, None) == Pruned()
        assert stand.broker.prune_dead(stand.queue, 2, 3600.0) == Pruned()
        assert stand.broker.prune_dead(stand.new_queue(), 1, 0.0) == Pruned()
        assert (stand.stats().dead, stand.stats().evicted) == (2, 0)

    def test_letters_are_deleted_in_steps(self, stand: Stand) -> None:
        bury(stand, *"abcdefg")
        pause(0.01)
        told = [stand.broker.prune_dead(stand.queue, 2, None, limit=2) for _ in range(3)]
        assert [(one.surplus, one.is_more) for one in told] == [(2, True), (2, True), (1, False)]
        assert letters(stand.broker.dead(stand.queue)) == ["f", "g"]
        told = [stand.broker.prune_dead(stand.queue, None, 0.0, limit=1) for _ in range(2)]
        assert [(one.expired, one.is_more) for one in told] == [(1, True), (1, False)]
        assert (stand.stats().dead, stand.stats().evicted) == (0, 7)

    def test_what_is_too_old_goes_first_and_what_is_too_many_in_the_next_step(self, stand: Stand) -> None:
        bury(stand, *"abcd")
        pause(1.2)
        bury(stand, *"ef")
        first, _, _, _, second, _ = keys(stand)
        assert stand.broker.prune_dead(stand.queue, 1, 1.0) == Pruned(4, 0, first, is_more=True)
        assert stand.broker.prune_dead(stand.queue, 1, 1.0) == Pruned(0, 1, second)
        assert letters(stand.broker.dead(stand.queue)) == ["f"]

    def test_what_is_left_after_an_eviction_is_as_before(self, stand: Stand) -> None:
        bury(stand, "a", "b")
        stand.broker.prune_dead(stand.queue, 1, None)
        bury(stand, "c")
        assert letters(stand.broker.dead(stand.queue)) == ["b", "c"]
        assert stand.broker.replay(stand.queue, keys(stand)) == 2
        assert (stand.stats().dead, stand.stats().evicted) == (0, 1)


def bury(stand: Stand, *names: str) -> None:
    """Send messages and bury them, in order."""
    stand.send(*names)
    consumer = stand.consumer()
    while batch := consumer.take(100, 0):
        assert settle(consumer, batch, Bury("told to", "by the contract suite")) == []
    consumer.close()


def letters(page: list[DeadLetter]) -> list[str]:
    return [name_of(letter.data) for letter in page]


def keys(stand: Stand, limit: int = 100) -> list[bytes]:
    return [letter.key for letter in stand.broker.dead(stand.queue, limit=limit)]
