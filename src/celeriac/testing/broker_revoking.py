"""Revocations: what is revoked is delivered alone, with the verdict, whichever way it comes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence

import pytest

from celeriac import clock
from celeriac.brokers.contract import (
    MOST_BANS,
    REMEMBERED,
    REVOKED,
    Ack,
    Action,
    Delivery,
    Outgoing,
    PutBack,
    Release,
    Replace,
    Revocation,
    Settlement,
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
    pause,
    settle,
    until,
)

KEEP = 600.0


def revoke(stand: Stand, *datas: bytes, keep: float = KEEP) -> list[bytes]:
    """Revoke messages in the stand's queue, over its other connection."""
    return stand.other.revoke(stand.queue, [Revocation(data[1:17]) for data in datas], keep)


def remembered(stand: Stand) -> list[bytes]:
    return [one.key for one in stand.broker.revoked(stand.queue)]


def delivered(batches: Sequence[Sequence[Delivery]]) -> list[list[tuple[str, str | None]]]:
    """Name and verdict of each delivery, by batches."""
    return [[(name_of(one.data), one.verdict) for one in batch] for batch in batches]


def again(data: bytes) -> bytes:
    """Other bytes with the same id, as a retry has."""
    return data[:17] + b"again"


class Revoking:
    """`revoke` and `revoked`."""

    # -- what waits ----------------------------------------------------------------------------------------

    def test_what_waits_is_delivered_alone_and_with_the_verdict(self, stand: Stand) -> None:
        sent = stand.send(*"abcde")
        assert revoke(stand, sent[2]) in ([], [sent[2][1:17]])
        batches = delivered(stand.drain())
        assert [("c", REVOKED)] in batches
        assert [one for batch in batches for one in batch if one[0] != "c"] == [(n, None) for n in "abde"]
        assert remembered(stand) == []
        stand.send("next")
        assert delivered(stand.drain()) == [[("next", None)]]

    def test_other_queues_are_not_touched(self, stand: Stand) -> None:
        second = stand.new_queue()
        [data] = stand.send("a", queue=second)
        assert revoke(stand, data) == []
        assert delivered(stand.drain(second)) == [[("a", None)]]
        assert stand.broker.revoked(second) == []

    def test_what_is_done_and_what_is_dead_is_not_found(self, stand: Stand) -> None:
        done, dead = stand.send("done")[0], stand.send("dead")[0]
        consumer = stand.consumer()
        settle(consumer, consumer.take(1, SOON))
        consumer.close()
        stand.crash(max_deliveries=1)
        stand.bury_judged()
        assert revoke(stand, done, dead) == []
        assert stand.stats().dead == 1

    def test_the_verdict_stays_until_it_is_settled(self, stand: Stand) -> None:
        [data] = stand.send("a")
        revoke(stand, data)
        consumer = stand.consumer()
        assert settle(consumer, consumer.take(1, SOON), Release()) == []
        assert delivered([consumer.take(1, SOON)]) == [[("a", REVOKED)]]
        consumer.close()
        stand.crash()
        assert delivered(stand.drain()) == [[("a", REVOKED)]]

    # -- what is held ---------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "way", ["release", "replace", "put back", "crash", "surrender", "lease", "close"]
    )
    def test_what_is_held_is_caught_when_it_comes_again(self, stand: Stand, way: str) -> None:
        [data, *_] = stand.send("a")
        consumer = stand.consumer(lease=SHORT if way == "lease" else KEEP)
        [delivery] = consumer.take(1, SOON)
        assert revoke(stand, data) == []
        assert remembered(stand) == [data[1:17]]
        stand.send("z")
        actions: dict[str, Action] = {
            "release": Release(),
            "replace": Replace(Outgoing(stand.queue, again(data))),
            "put back": PutBack(again(data), clock.now() + 0.1),
        }
        if way in actions:
            assert settle(consumer, [delivery], actions[way]) == []
        elif way == "crash":
            casualty = {delivery.key: casualty_of("signal 9 (SIGKILL)")}
            stand.broker.surrender([stand.queue], consumer.owner, casualty, {}, 3)
        elif way == "surrender":
            stand.broker.surrender([stand.queue], consumer.owner, {}, {}, 3)
        elif way == "close":
            consumer.close()
        else:
            stand.expire()
        taken: list[Delivery] = []
        eager = stand.consumer()

        def take() -> int:
            batch = eager.take(10, 0)
            assert len(batch) < 2
            taken.extend(batch)
            return len(taken) == 2

        until(take, "both are delivered")
        got = {name_of(one.data)[:1]: (one.crashes, one.verdict) for one in taken}
        assert got == {"a": (int(way in ("crash", "lease")), REVOKED), "z": (0, None)}
        assert remembered(stand) == []

    def test_a_settlement_is_not_touched(self, stand: Stand) -> None:
        [data] = stand.send("a")
        consumer = stand.consumer()
        batch = consumer.take(1, SOON)
        revoke(stand, data)
        assert consumer.confirm(batch) == []
        assert settle(consumer, batch) == []
        assert stand.drain() == []

    def test_a_committed_one_keeps_its_verdict(self, stand: Stand) -> None:
        [data] = stand.send("a")
        consumer = stand.consumer()
        consumer.commit(consumer.take(1, SOON))
        revoke(stand, data)
        consumer.close()
        assert revoke(stand, data) == []
        assert delivered(stand.drain()) == [[("a", "worker_lost")]]
        assert remembered(stand) == [data[1:17]]

    def test_the_supervisors_verdict_goes_before(self, stand: Stand) -> None:
        [data] = stand.send("a")
        consumer = stand.consumer()
        consumer.take(1, SOON)
        revoke(stand, data)
        verdict = {data[1:17]: f"{REVOKED}:terminated"}
        stand.broker.surrender([stand.queue], consumer.owner, {}, verdict, 3)
        assert delivered(stand.drain()) == [[("a", f"{REVOKED}:terminated")]]
        assert remembered(stand) == []

    # -- what is not there yet -------------------------------------------------------------------------------

    @pytest.mark.parametrize("due_in", [None, 0.1])
    def test_what_is_sent_later_is_caught(self, stand: Stand, due_in: float | None) -> None:
        data = message("a")
        assert revoke(stand, data) == []
        stand.send("before")
        due_at = None if due_in is None else clock.now() + due_in
        stand.broker.send([Outgoing(stand.queue, data, 3, due_at)], SOON)
        consumer = stand.consumer()
        taken: list[Delivery] = []

        def take() -> int:
            taken.extend(consumer.take(10, 0))
            return len(taken) == 2

        until(take, "both are delivered")
        assert {(name_of(one.data), one.verdict) for one in taken} == {("a", REVOKED), ("before", None)}
        assert remembered(stand) == []
        stand.broker.send([Outgoing(stand.queue, data)], SOON)
        assert delivered(stand.drain()) == [[("a", None)]]

    def test_those_in_one_batch_come_alone_and_the_others_together(self, stand: Stand) -> None:
        batch = [message(name) for name in "abcdef"]
        revoke(stand, batch[1], batch[2], batch[5])
        stand.broker.send([Outgoing(stand.queue, data) for data in batch], SOON)
        got = delivered(stand.drain())
        assert sorted(row for row in got if row[0][1]) == [[(name, REVOKED)] for name in "bcf"]
        assert [one for row in got for one in row if not one[1]] == [(name, None) for name in "ade"]

    def test_a_purge_does_not_forget_it(self, stand: Stand) -> None:
        data = message("a")
        revoke(stand, data)
        stand.send("b")
        stand.broker.purge(stand.queue)
        stand.broker.send([Outgoing(stand.queue, data)], SOON)
        assert delivered(stand.drain()) == [[("a", REVOKED)]]

    def test_it_is_forgotten_after_its_time(self, stand: Stand) -> None:
        short, long = message("short"), message("long")
        revoke(stand, short, keep=0.2)
        revoke(stand, long)
        until(lambda: remembered(stand) == [long[1:17]], "the short one is forgotten")
        stand.broker.send([Outgoing(stand.queue, data) for data in (short, long)], SOON)
        got = [one for batch in delivered(stand.drain()) for one in batch]
        assert sorted(got, key=str) == [("long", REVOKED), ("short", None)]

    def test_revoked_lists_them_oldest_first(self, stand: Stand) -> None:
        asked = [
            Revocation(message("a")[1:17]),
            Revocation(message("b")[1:17], terminate=True),
            Revocation(message("c")[1:17], terminate=True, signal="SIGKILL"),
        ]
        for one in asked:
            assert stand.broker.revoke(stand.queue, [one], KEEP) == []
            pause(0.005)
        assert stand.other.revoked(stand.queue) == asked
        assert stand.other.revoked(stand.new_queue()) == []

    def test_a_milder_revocation_does_not_take_back_a_harder_one(self, stand: Stand) -> None:
        key = message("a")[1:17]
        stand.broker.revoke(stand.queue, [Revocation(key)], KEEP)
        stand.broker.revoke(stand.queue, [Revocation(key, True, "SIGKILL")], KEEP)
        stand.broker.revoke(stand.queue, [Revocation(key)], 1.0)
        assert stand.broker.revoked(stand.queue) == [Revocation(key, True, "SIGKILL")]
        pause(1.1)
        assert remembered(stand) == [key]

    def test_so_many_are_remembered_and_no_more(self, stand: Stand) -> None:
        old = [message("old") for _ in range(5)]
        revoke(stand, *old)
        pause(0.01)
        new = [message("new") for _ in range(REMEMBERED - 2)]
        assert revoke(stand, *new) == []
        kept = remembered(stand)
        assert len(kept) == REMEMBERED
        assert set(kept) > {data[1:17] for data in new}

    def test_more_than_are_remembered_are_revoked_at_once(self, stand: Stand) -> None:
        assert revoke(stand, *(message("x") for _ in range(REMEMBERED + 1))) == []
        assert len(remembered(stand)) == REMEMBERED

    def test_no_revocations(self, stand: Stand) -> None:
        stand.send("a")
        assert stand.broker.revoke(stand.queue, [], KEEP) == []
        assert stand.drained() == ["a"]

    # -- what is not known by its key ---------------------------------------------------------------------------

    def test_bans_are_remembered_by_the_broker_and_told_to_consumers(self, stand: Stand) -> None:
        assert stand.broker.bans() == []
        stand.broker.ban(b"later", 60.0)
        stand.broker.ban(b"sooner", 30.0)
        consumer = stand.consumer(broker=stand.other)
        assert stand.other.bans() == consumer.bans() == [b"sooner", b"later"]
        stand.broker.ban(b"sooner", 90.0)
        stand.broker.ban(b"sooner", 10.0)
        assert consumer.bans() == [b"later", b"sooner"]

    def test_a_ban_is_over_when_its_time_is(self, stand: Stand) -> None:
        stand.broker.ban(b"short", 0.05)
        stand.broker.ban(b"long", 60.0)
        until(lambda: stand.broker.bans() == [b"long"], "the end of a ban")

    def test_whoever_lost_his_lease_can_read_the_bans(self, stand: Stand) -> None:
        stand.send("a")
        lost = stand.consumer()
        lost.take(1, SOON)
        stand.other.surrender([stand.queue], lost.owner, {}, {}, 3)
        stand.broker.ban(b"one", 60.0)
        with contextlib.suppress(LeaseLost):  # where he is told of it here, it is once
            lost.bans()
        assert lost.bans() == [b"one"]

    def test_of_too_many_bans_the_soonest_to_be_forgotten_go_first(self, stand: Stand) -> None:
        for number in range(MOST_BANS + 2):
            stand.broker.ban(b"%d" % number, 100.0 + number)
        bans = stand.broker.bans()
        assert (len(bans), bans[0], bans[-1]) == (MOST_BANS, b"2", b"%d" % (MOST_BANS + 1))

    # -- while others work ------------------------------------------------------------------------------------

    def test_nothing_revoked_is_delivered_without_the_verdict(self, stand: Stand) -> None:
        """Takes, releases, retries and delays go on while half of everything is revoked."""
        sent = stand.send(*(str(i) for i in range(2000)))
        sent += stand.send(*(f"late-{i}" for i in range(500)), due_in=0.3)
        is_revoked: set[bytes] = set()
        wrong: list[str] = []
        ended: set[bytes] = set()
        lock = threading.Lock()

        def work() -> None:
            consumer = stand.consumer(broker=stand.broker)
            last = clock.monotonic()
            while len(ended) < len(sent) and clock.monotonic() - last < PATIENCE:
                with lock:
                    before = set(is_revoked)
                batch = consumer.take(20, 0.05)
                last = clock.monotonic() if batch else last
                wrong.extend(name_of(d.data) for d in batch if d.key in before and d.verdict != REVOKED)
                consumer.settle([_fate(stand, number, one) for number, one in enumerate(batch)])
                ended.update(d.key for number, d in enumerate(batch) if d.verdict or number % 4 == 0)
            consumer.close()

        workers = [stand.start(work) for _ in range(3)]
        for start in range(0, len(sent), 100):
            part = [data[1:17] for data in sent[start : start + 100 : 2]]
            stand.other.revoke(stand.queue, [Revocation(key) for key in part], KEEP)
            with lock:
                is_revoked.update(part)
        for worker in workers:
            worker.result(10 * PATIENCE)
        assert wrong == []
        assert len(ended) == len(sent)
        assert (stand.stats().ready, stand.stats().delayed, stand.stats().running) == (0, 0, 0)


def _fate(stand: Stand, number: int, delivery: Delivery) -> Settlement:
    """Those with a verdict and every fourth end; the others go back, are retried or wait a little."""
    if delivery.verdict or number % 4 == 0:
        return Settlement(delivery, Ack())
    if number % 4 == 1:
        return Settlement(delivery, Release())
    if number % 4 == 2:
        return Settlement(delivery, Replace(Outgoing(stand.queue, delivery.data)))
    return Settlement(delivery, PutBack(delivery.data, clock.now() + 0.01))
