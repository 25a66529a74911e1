"""Committed deliveries: their runs have begun and are not repeated, whatever happens to their process."""

from __future__ import annotations

import pytest

from celeriac import clock
from celeriac.brokers.contract import Bury, Casualty, Outgoing, PutBack, Release, Replace, Settlement
from celeriac.testing.stand import SHORT, SOON, Stand, message, names, settle


def _only(stand: Stand) -> tuple[str, int, str | None]:
    """Name, crashes and verdict of the one delivery that others get."""
    [[delivery]] = stand.drain()
    return names([delivery])[0], delivery.crashes, delivery.verdict


class Commits:
    """`Consumer.commit`."""

    def test_a_committed_delivery_is_settled_as_any(self, stand: Stand) -> None:
        stand.send("a", "b", "c")
        consumer = stand.consumer()
        batch = consumer.take(3, SOON)
        assert consumer.commit(batch) == []
        successor = Outgoing(stand.queue, message("again"))
        assert settle(consumer, batch[:1]) == []
        assert consumer.settle([Settlement(batch[1], Replace(successor))]) == []
        assert settle(consumer, batch[2:]) == []
        assert stand.drained() == ["again"]

    def test_a_delivery_that_is_no_longer_ours_cannot_be_committed(self, stand: Stand) -> None:
        stand.send("a", "b")
        consumer = stand.consumer()
        first, second = consumer.take(2, SOON)
        settle(consumer, [first])
        assert consumer.commit([first, second]) == [first]
        stand.other.surrender([stand.queue], consumer.owner, {}, {}, 3)
        assert consumer.commit([second]) == [second]

    @pytest.mark.parametrize(
        ("casualties", "verdict"), [(False, "worker_lost"), (True, "worker_lost:signal 9 (SIGKILL)")]
    )
    def test_after_the_death_of_its_process_it_comes_back_with_a_verdict(
        self, stand: Stand, casualties: bool, verdict: str
    ) -> None:
        stand.send("a")
        consumer = stand.consumer()
        [delivery] = consumer.take(1, SOON)
        consumer.commit([delivery])
        casualty = {delivery.key: Casualty("signal 9 (SIGKILL)", 1.0)} if casualties else {}
        assert stand.other.surrender([stand.queue], consumer.owner, casualty, {}, 3) == 1
        assert _only(stand) == ("a", 0, verdict)

    def test_another_verdict_goes_before(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        [delivery] = consumer.take(1, SOON)
        consumer.commit([delivery])
        stand.other.surrender([stand.queue], consumer.owner, {}, {delivery.key: "time_limit:3"}, 3)
        assert _only(stand) == ("a", 0, "time_limit:3")

    def test_after_a_lost_lease_it_comes_back_with_a_verdict(self, stand: Stand) -> None:
        stand.send("a", "b")
        consumer = stand.consumer(lease=SHORT)
        committed, other = consumer.take(2, SOON)
        consumer.commit([committed])
        stand.expire()
        deliveries = [delivery for batch in stand.drain() for delivery in batch]
        told = {names([one])[0]: (one.crashes, one.verdict) for one in deliveries}
        assert told == {"a": (0, "worker_lost:lease expired"), "b": (1, None)}
        late = consumer.settle([Settlement(one, Release()) for one in (committed, other)])
        assert set(late) == {committed, other}

    def test_given_back_it_does_not_run_again_either(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        batch = consumer.take(1, SOON)
        consumer.commit(batch)
        assert settle(consumer, batch, Release()) == []
        assert _only(stand) == ("a", 0, "worker_lost")

    def test_put_back_it_does_not_run_again_either(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        [delivery] = consumer.take(1, SOON)
        consumer.commit([delivery])
        assert settle(consumer, [delivery], PutBack(delivery.data, clock.now() - 1.0)) == []
        assert _only(stand) == ("a", 0, "worker_lost")

    def test_buried_it_can_be_replayed(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        batch = consumer.take(1, SOON)
        consumer.commit(batch)
        assert settle(consumer, batch, Bury("why")) == []
        [letter] = stand.broker.dead(stand.queue)
        assert stand.broker.replay(stand.queue, [letter.key]) == 1
        assert stand.stats().ready == 1
        assert _only(stand) == ("a", 0, None)

    def test_closing_gives_it_back_with_a_verdict(self, stand: Stand) -> None:
        stand.send("a")
        consumer = stand.consumer()
        consumer.commit(consumer.take(1, SOON))
        consumer.close()
        assert _only(stand) == ("a", 0, "worker_lost")
