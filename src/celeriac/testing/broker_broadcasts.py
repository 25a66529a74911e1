"""Broadcasts: which queues have copies, for how long, and what becomes of them behind that."""

from __future__ import annotations

from celeriac.brokers.abilities import Broadcasting
from celeriac.brokers.contract import Bury
from celeriac.testing.stand import SOON, Stand, names, settle


class Broadcasts:
    """`subscribe`, `subscribers` and `forget_lapsed`, of brokers that can."""

    def test_queues_have_copies_for_as_long_as_they_were_subscribed(self, stand: Stand) -> None:
        assert isinstance(stand.broker, Broadcasting)
        assert isinstance(stand.other, Broadcasting)
        news, one, two = (stand.new_queue() for _ in range(3))
        assert stand.broker.subscribers(news) == []
        for queue in (one, two, one):
            stand.broker.subscribe(news, queue, 60.0)
        assert stand.other.subscribers(news) == sorted([one, two])
        assert stand.other.subscribers(stand.new_queue()) == []
        stand.other.subscribe(news, one, 0.0)
        assert stand.broker.subscribers(news) == [two]
        stand.broker.subscribe(news, one, 60.0)
        assert stand.broker.subscribers(news) == sorted([one, two])

    def test_a_lapsed_queue_goes_with_all_that_is_in_it(self, stand: Stand) -> None:
        assert isinstance(stand.broker, Broadcasting)
        news, stays, goes = (stand.new_queue() for _ in range(3))
        consumer = stand.consumer(goes)
        for queue in (stays, goes):
            stand.send("held", "dead", "ready", queue=queue)
            stand.send("delayed", queue=queue, due_in=3600)
            stand.broker.subscribe(news, queue, 60.0)
        held, dead = consumer.take(2, SOON)
        settle(consumer, [dead], Bury("told to"))
        stand.broker.subscribe(news, goes, 0.0)
        assert stand.broker.forget_lapsed(news, 3600.0) == []
        assert stand.stats(goes).ready == 1
        assert stand.broker.forget_lapsed(stand.new_queue(), 0.0) == []
        assert stand.broker.forget_lapsed(news, 0.0) == [goes]
        assert stand.broker.forget_lapsed(news, 0.0) == []
        assert settle(consumer, [held]) == [held]
        left = stand.stats(goes)
        assert (left.ready, left.delayed, left.running, left.dead) == (0, 0, 0, 0)
        assert goes not in stand.broker.queues()
        assert stand.broker.subscribers(news) == [stays]
        assert stand.stats(stays).ready == 3

    def test_a_queue_that_was_forgotten_begins_anew(self, stand: Stand) -> None:
        assert isinstance(stand.broker, Broadcasting)
        news = stand.new_queue()
        stand.send("old", queue=stand.queue)
        stand.broker.subscribe(news, stand.queue, 0.0)
        assert stand.broker.forget_lapsed(news, 0.0) == [stand.queue]
        stand.broker.subscribe(news, stand.queue, 60.0)
        stand.send("new")
        assert names(stand.consumer().take(10, SOON)) == ["new"]
