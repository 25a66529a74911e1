"""Moving messages to another broker: packed, unpacked and discarded, each step as often as one likes."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from celeriac import clock
from celeriac.brokers.abilities import CRATE_BYTES, Crate, Movable
from celeriac.brokers.contract import REVOKED, Bury, Outgoing, Revocation
from celeriac.message import KEY
from celeriac.testing.stand import PATIENCE, SOON, Stand, message, name_of, names, settle

MANY = 1_000
ELSEWHERE = "another place"


def movable(stand: Stand) -> Movable:
    assert isinstance(stand.broker, Movable)
    return stand.broker


def crates(stand: Stand, limit: int = MANY) -> Iterator[Crate]:
    """Pack everything, and discard each crate when it has been looked at."""
    while crate := movable(stand).pack(stand.queue, ELSEWHERE, limit):
        yield crate
        movable(stand).discard(crate)


def move(stand: Stand, target: str, limit: int = MANY) -> list[int]:
    """Move everything to another queue. Returns how many were in each crate."""
    sizes: list[int] = []
    for crate in crates(stand, limit):
        assert movable(stand).unpack(msgspec.structs.replace(crate, queue=target))
        sizes.append(len(crate.parcels))
    return sizes


def inside(crate: Crate | None) -> list[str]:
    """The names of what is in a crate."""
    assert crate is not None
    return [name_of(parcel.data) for parcel in crate.parcels]


class Moving:
    """`Movable`, of brokers that can."""

    def test_what_is_ready_is_moved_in_the_order_of_taking(self, stand: Stand) -> None:
        target = stand.new_queue()
        sent = [*stand.send("d", "e"), *stand.send("a", "b", priority=9), *stand.send("c", priority=3)]
        assert move(stand, target, 2) == [2, 2, 1]
        batches = stand.drain(target)
        assert [names(batch) for batch in batches] == [["a", "b", "c", "d", "e"]]
        assert {one.data for one in batches[0]} == set(sent)
        assert (stand.stats().ready, stand.drained()) == (0, [])
        assert target in stand.broker.queues()

    def test_priorities_are_kept(self, stand: Stand) -> None:
        target = stand.new_queue()
        stand.send("low", priority=1)
        stand.send("high", priority=8)
        move(stand, target)
        stand.send("between", priority=5, queue=target)
        assert stand.drained(target) == ["high", "between", "low"]

    def test_what_fell_due_on_its_way_is_ready(self, stand: Stand) -> None:
        stand.send("soon")
        [crate] = crates(stand)
        [parcel] = crate.parcels
        late = msgspec.structs.replace(parcel, due_at=clock.now() - 5)
        movable(stand).unpack(msgspec.structs.replace(crate, parcels=[late]))
        assert stand.drained() == ["soon"]

    def test_a_suspect_keeps_its_casualties(self, stand: Stand) -> None:
        target = stand.new_queue()
        stand.send("suspect", "innocent")
        stand.crash()
        move(stand, target)
        batches = stand.drain(target)
        assert [names(batch) for batch in batches] == [["suspect"], ["innocent"]]
        assert [batch[0].crashes for batch in batches] == [1, 0]

    def test_a_verdict_is_kept(self, stand: Stand) -> None:
        target = stand.new_queue()
        stand.send("judged", "other")
        victim = stand.consumer()
        [judged] = victim.take(1, SOON)
        stand.broker.surrender([stand.queue], victim.owner, {}, {judged.key: "time_limit:5"}, 3)
        move(stand, target)
        [judged], [other] = stand.drain(target)
        assert (name_of(judged.data), judged.verdict) == ("judged", "time_limit:5")
        assert (name_of(other.data), other.verdict) == ("other", None)

    def test_what_is_to_come_later_is_delayed(self, stand: Stand) -> None:
        target = stand.new_queue()
        stand.send("later")
        due_at = clock.now() + 0.5
        for crate in crates(stand):
            [parcel] = crate.parcels
            there = [msgspec.structs.replace(parcel, due_at=due_at)]
            movable(stand).unpack(msgspec.structs.replace(crate, queue=target, parcels=there))
        assert names(stand.consumer(target).take(1, PATIENCE)) == ["later"]
        assert clock.now() >= due_at - 0.02

    def test_ready_then_dead(self, stand: Stand) -> None:
        stand.send("dead")
        consumer = stand.consumer()
        settle(consumer, consumer.take(1, SOON), Bury("why"))
        stand.send("ready")
        assert [inside(crate) for crate in crates(stand)] == [["ready"], ["dead"]]
        assert (stand.stats().ready, stand.stats().dead) == (0, 0)

    def test_dead_letters_are_kept_as_they_are(self, stand: Stand) -> None:
        target = stand.new_queue()
        stand.send("poison", priority=4)
        stand.crash(times=2, max_deliveries=2)
        stand.bury_judged()
        stand.send("refused", priority=6)
        consumer = stand.consumer()
        assert not settle(consumer, consumer.take(1, SOON), Bury("refusé", "line\nline"))
        before = stand.broker.dead(stand.queue)
        assert move(stand, target) == [2]
        after = stand.broker.dead(target)
        assert [msgspec.structs.replace(one, queue=stand.queue) for one in after] == before
        assert (stand.stats().dead, stand.stats(target).dead) == (0, 2)
        assert stand.broker.replay(target, [one.key for one in after]) == 2
        assert sorted(stand.drained(target)) == ["poison", "refused"]

    def test_no_dead_letter_replaces_another(self, stand: Stand) -> None:
        target = stand.new_queue()
        stand.send("letter")
        consumer = stand.consumer()
        settle(consumer, consumer.take(1, SOON), Bury("why"))
        [crate] = crates(stand)
        there = msgspec.structs.replace(crate, queue=target)
        movable(stand).unpack(there)
        movable(stand).unpack(msgspec.structs.replace(there, number=crate.number + 1))
        assert len({letter.key for letter in stand.broker.dead(target)}) == 2

    def test_an_open_crate_is_packed_once(self, stand: Stand) -> None:
        broker = movable(stand)
        assert broker.pack(stand.queue, ELSEWHERE, 0) is None
        stand.send("a", "b", "c")
        assert broker.pack(stand.queue, ELSEWHERE, 0) is None
        first = broker.pack(stand.queue, ELSEWHERE, 2)
        assert inside(first) == ["a", "b"]
        assert isinstance(stand.other, Movable)
        assert broker.pack(stand.queue, "a third place", 100) == first
        assert stand.other.pack(stand.queue, ELSEWHERE, 0) == first
        assert stand.drained() == ["c"]
        assert first is not None
        for _ in range(2):
            broker.discard(first)
            assert broker.pack(stand.queue, ELSEWHERE, 2) is None

    def test_a_crate_is_unpacked_once(self, stand: Stand) -> None:
        broker, target = movable(stand), stand.new_queue()
        stand.send("a", "b")
        first, second = (msgspec.structs.replace(crate, queue=target) for crate in crates(stand, 1))
        assert [broker.unpack(one) for one in (first, first)] == [True, False]
        assert stand.drained(target) == ["a"]
        assert [broker.unpack(one) for one in (first, second, first, second)] == [False, True, False, False]
        assert stand.drained(target) == ["b"]

    def test_numbers_grow_and_a_discard_ends_its_own_crate_only(self, stand: Stand) -> None:
        broker = movable(stand)
        stand.send("a", "b")
        first = broker.pack(stand.queue, ELSEWHERE, 1)
        assert first is not None
        broker.discard(first)
        second = broker.pack(stand.queue, "a third place", 1)
        assert second is not None
        assert (second.series, second.number, second.target) == (
            first.series,
            first.number + 1,
            "a third place",
        )
        broker.discard(first)
        assert broker.pack(stand.queue, ELSEWHERE, 1) == second
        broker.discard(second)

    def test_a_crate_holds_some_mb(self, stand: Stand) -> None:
        size = CRATE_BYTES // 2 + 1
        batch = [Outgoing(stand.queue, message(name) + bytes(size)) for name in "abc"]
        stand.broker.send(batch, PATIENCE)
        assert [len(crate.parcels) for crate in crates(stand)] == [2, 1]

    def test_what_runs_is_left_alone_and_a_pause_changes_nothing(self, stand: Stand) -> None:
        stand.send("running", "waiting")
        consumer = stand.consumer()
        deliveries = consumer.take(1, SOON)
        stand.broker.pause(stand.queue)
        assert [inside(crate) for crate in crates(stand)] == [["waiting"]]
        assert stand.stats().running == 1
        assert settle(consumer, deliveries) == []
        assert stand.stats().running == 0

    def test_what_is_unpacked_wakes_who_waits(self, stand: Stand) -> None:
        target = stand.new_queue()
        stand.send("a")
        [crate] = crates(stand)
        there = msgspec.structs.replace(crate, queue=target)
        batch, _ = stand.while_taking(stand.consumer(target), lambda: movable(stand).unpack(there))
        assert names(batch) == ["a"]

    def test_takes_and_packs_share_out_what_is_there(self, stand: Stand) -> None:
        sent = [str(number) for number in range(300)]
        stand.send(*sent)
        working = stand.start(lambda: stand.drained(broker=stand.other, limit=7))
        packed = [name for crate in crates(stand, 11) for name in inside(crate)]
        taken = working.result(PATIENCE)
        rest = [name for crate in crates(stand) for name in inside(crate)] + stand.drained()
        assert sorted([*packed, *taken, *rest]) == sorted(sent)


class SearchableMoving:
    """What `Movable` does besides where the broker is `Searchable`."""

    def test_what_is_delayed_keeps_its_due_time(self, stand: Stand) -> None:
        target = stand.new_queue()
        due_at = clock.now() + 3600.25
        later = Outgoing(stand.queue, message("later"), 3, due_at + 1)
        stand.broker.send([later, Outgoing(stand.queue, message("sooner"), 7, due_at)], SOON)
        found = [parcel for crate in crates(stand) for parcel in crate.parcels]
        assert [(name_of(one.data), one.priority) for one in found] == [("sooner", 7), ("later", 3)]
        assert found[0].due_at == pytest.approx(due_at, abs=PATIENCE)
        crate = Crate(target, ELSEWHERE, b"delayed", 1, found)
        movable(stand).unpack(crate)
        assert (stand.stats(target).ready, stand.stats(target).delayed) == (0, 2)
        repacked = movable(stand).pack(target, ELSEWHERE, MANY)
        assert repacked is not None
        # To the millisecond, which is what some servers keep.
        dues = [one.due_at or 0.0 for one in found]
        assert [one.due_at for one in repacked.parcels] == pytest.approx(dues, abs=0.0015)
        movable(stand).discard(repacked)

    def test_ready_then_delayed_then_dead(self, stand: Stand) -> None:
        stand.send("dead")
        consumer = stand.consumer()
        settle(consumer, consumer.take(1, SOON), Bury("why"))
        stand.send("delayed", due_in=3600)
        stand.send("ready")
        assert [inside(crate) for crate in crates(stand)] == [["ready"], ["delayed"], ["dead"]]
        stats = stand.stats()
        assert (stats.ready, stats.delayed, stats.dead) == (0, 0, 0)

    def test_holes_of_revoked_messages_are_no_messages(self, stand: Stand) -> None:
        data = stand.send(*map(str, range(50)))
        revoked = [Revocation(one[KEY]) for one in data[10:40]]
        assert len(stand.broker.revoke(stand.queue, revoked, 60.0)) == 30
        found = [parcel for crate in crates(stand) for parcel in crate.parcels]
        assert sorted(one.data for one in found) == sorted(data)
        assert sum(one.verdict == REVOKED for one in found) == 30
