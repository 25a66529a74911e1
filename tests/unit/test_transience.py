"""Which messages are transient: the call says, else its task, else its route, else its queue, else the settings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from celeriac import Celeriac, Exchange, Queue, group, message
from celeriac.brokers.contract import Outgoing
from celeriac.brokers.memory import MemoryBroker
from celeriac.exceptions import ImproperlyConfigured
from celeriac.urls import Url


class Noting(MemoryBroker):
    """Notes what comes to be stored."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        super().__init__(url, options)
        self.came: list[Outgoing] = []

    def send(self, batch: Sequence[Outgoing], timeout: float) -> None:
        self.came += batch
        super().send(batch, timeout)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    monkeypatch.setattr("celeriac.brokers.memory.MemoryBroker", Noting)
    with warnings.catch_warnings(), Celeriac("proj", broker=f"memory://{request.node.name}") as app:
        warnings.simplefilter("error")
        yield app


def kinds(app: Celeriac) -> list[bool]:
    """Which of the messages that came were transient; the message itself says the same as who sends it."""
    broker = app.broker
    assert isinstance(broker, Noting)
    assert [one.transient for one in broker.came] == [message.is_transient(one.data) for one in broker.came]
    return [one.transient for one in broker.came]


def declare(app: Celeriac, **options: Any) -> Any:
    @app.task(name="proj.one", **options)
    def one() -> None: ...

    return one


def test_nothing_is_transient_unless_somebody_says_so(app: Celeriac) -> None:
    declare(app).delay()
    assert kinds(app) == [False]


@pytest.mark.parametrize("mode", [1, "1", "transient"])
def test_a_call_says(app: Celeriac, mode: Any) -> None:
    one = declare(app)
    one.apply_async(delivery_mode=mode)
    one.apply_async(delivery_mode=mode, countdown=10)
    app.send_task("proj.one", delivery_mode=mode)
    one.s().set(delivery_mode=mode).delay()
    assert kinds(app) == [True] * 4


def test_a_task_says_unless_the_call_does(app: Celeriac) -> None:
    one = declare(app, delivery_mode="transient")
    one.delay()
    one.apply_async(countdown=10)
    one.apply_async(delivery_mode="persistent")
    assert kinds(app) == [True, True, False]


def test_a_route_says_unless_the_task_does(app: Celeriac) -> None:
    app.conf.task_routes = {"proj.*": {"queue": "news", "delivery_mode": "transient"}}
    one = declare(app)
    one.delay()
    one.apply_async(delivery_mode=2)
    one.delivery_mode = "persistent"
    one.delay()
    assert kinds(app) == [True, False, False]


@pytest.mark.parametrize(
    "queues",
    [
        [Queue("news", durable=False)],
        [Queue("news", Exchange("news", delivery_mode="transient"))],
        [Queue("news", Exchange("news", delivery_mode=1), durable=True)],
        {"news": {"exchange": "news", "durable": False}},
    ],
)
def test_a_queue_says_unless_the_route_does(app: Celeriac, queues: Any) -> None:
    app.conf.task_queues = queues
    one = declare(app, queue="news")
    one.delay()
    one.apply_async(countdown=10)
    app.conf.task_routes = {"proj.one": {"delivery_mode": "persistent"}}
    one.delay()
    one.apply_async(queue="other")
    assert kinds(app) == [True, True, False, False]


def test_a_setting_says_unless_the_queue_does(app: Celeriac) -> None:
    app.conf.task_default_delivery_mode = "transient"
    app.conf.task_queues = [Queue("kept", Exchange("kept", delivery_mode="persistent"))]
    one = declare(app)
    one.delay()
    one.apply_async(countdown=10)
    one.apply_async(queue="kept")
    assert app.conf.task_default_delivery_mode == 1
    assert kinds(app) == [True, True, False]


def test_copies_are_transient_where_all_their_queues_are(app: Celeriac) -> None:
    fan = Exchange("fan", type="fanout")
    app.conf.task_queues = [Queue("a", fan, durable=False), Queue("b", fan)]
    one = declare(app)
    one.apply_async(exchange="fan")
    app.conf.task_queues = [Queue("a", fan, durable=False), Queue("b", fan, durable=False)]
    one.apply_async(exchange="fan")
    assert kinds(app) == [False, False, True, True]


def test_many_calls_at_once_are_as_each_of_them(app: Celeriac) -> None:
    one = declare(app)
    group(one.s() for _ in range(2)).apply_async()
    group(one.s() for _ in range(2)).apply_async(delivery_mode="transient")
    assert kinds(app) == [False, False, True, True]


@pytest.mark.parametrize("mode", [0, 3, True, 1.5, "durable", ["transient"]])
def test_another_mode_is_an_error(app: Celeriac, mode: Any) -> None:
    one = declare(app)
    with pytest.raises(ImproperlyConfigured, match=r"'persistent' \(2\) or 'transient' \(1\)"):
        one.apply_async(delivery_mode=mode)
    with pytest.raises(ImproperlyConfigured, match="delivery_mode"):
        app.conf.task_default_delivery_mode = mode
    with pytest.raises(ImproperlyConfigured, match="the delivery_mode of the exchange of 'news'"):
        app.conf.task_queues = [Queue("news", Exchange("news", delivery_mode=mode))]
        one.delay()
    with pytest.raises(ImproperlyConfigured, match="the option 'delivery_mode'"):
        app.task(name="proj.other", delivery_mode=mode)(print)


def test_bytes_that_are_no_message_are_not_transient() -> None:
    assert message.is_transient(b"") is message.is_transient(b"garbage") is False
