"""A queue with a greatest length: what does not fit is refused, and nothing else is different."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from celeriac import clock
from celeriac.brokers.abilities import Limiting
from celeriac.brokers.contract import Outgoing
from celeriac.exceptions import QueueFull
from celeriac.testing.stand import PATIENCE, SOON, Stand, message, settle


class Room:
    """`send_limited`, of brokers that can."""

    def test_a_full_queue_refuses_and_drops_nothing(self, stand: Stand) -> None:
        assert isinstance(stand.broker, Limiting)
        most = {stand.queue: 3}
        stand.broker.send_limited([Outgoing(stand.queue, message(name)) for name in "ab"], most, SOON)
        stand.broker.send_limited([Outgoing(stand.queue, message("c"), 3)], most, SOON)
        for batch in ("d", "de"):
            with pytest.raises(QueueFull, match="max_length is 3"):
                stand.broker.send_limited(
                    [Outgoing(stand.queue, message(name)) for name in batch], most, SOON
                )
        assert stand.stats().ready == 3
        assert stand.drained() == ["c", "a", "b"]

    def test_what_runs_leaves_its_place(self, stand: Stand) -> None:
        assert isinstance(stand.broker, Limiting)
        most = {stand.queue: 1}
        consumer = stand.consumer()
        for name in "abc":
            stand.broker.send_limited([Outgoing(stand.queue, message(name))], most, SOON)
            deliveries = consumer.take(1, SOON)
            assert len(deliveries) == 1
            if name != "a":
                settle(consumer, deliveries)
        stand.broker.send_limited([Outgoing(stand.queue, message("d"))], most, SOON)
        with pytest.raises(QueueFull):
            stand.broker.send_limited([Outgoing(stand.queue, message("e"))], most, SOON)

    def test_all_of_a_batch_is_stored_or_nothing(self, stand: Stand) -> None:
        assert isinstance(stand.broker, Limiting)
        second = stand.new_queue()
        batch = [Outgoing(stand.queue, message(str(n)), n % 3) for n in range(11)]
        with pytest.raises(QueueFull):
            stand.broker.send_limited(batch, {stand.queue: 10}, SOON)
        assert stand.stats().ready == 0
        stand.broker.send_limited([*batch[1:], Outgoing(second, message("x"))], {stand.queue: 10}, SOON)
        assert stand.stats().ready == 10
        assert stand.broker.stats(second).ready == 1

    def test_many_senders_do_not_overfill_it(self, stand: Stand) -> None:
        def send(number: int) -> bool:
            broker = (stand.broker, stand.other)[number % 2]
            assert isinstance(broker, Limiting)
            try:
                broker.send_limited(
                    [Outgoing(stand.queue, message(str(number)))], {stand.queue: 20}, PATIENCE
                )
            except QueueFull:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(send, range(100))) == 20
        assert stand.stats().ready == 20


class SearchableRoom:
    """What `Limiting` does besides where the broker is `Searchable`."""

    def test_what_is_delayed_has_its_place(self, stand: Stand) -> None:
        assert isinstance(stand.broker, Limiting)
        most = {stand.queue: 2}
        stand.broker.send_limited([Outgoing(stand.queue, message("a"))], most, SOON)
        later = Outgoing(stand.queue, message("b"), 3, clock.now() + 3600)
        stand.broker.send_limited([later], most, SOON)
        with pytest.raises(QueueFull, match="max_length is 2"):
            stand.broker.send_limited([Outgoing(stand.queue, message("c"))], most, SOON)
        assert (stand.stats().ready, stand.stats().delayed) == (1, 1)
        assert stand.drained() == ["a"]
