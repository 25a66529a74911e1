"""From options to stored messages, in bounded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celeriac import Celeriac, events, message
from celeriac.brokers.contract import Outgoing
from celeriac.context import Request
from celeriac.exceptions import BrokerUnavailable, ContentDisallowed, EncodeError, QueueNotFound
from celeriac.producer import Producer, new_keys

#: A loaded machine is given so much more (seconds).
LENIENT = 4.0


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    with Celeriac("proj", broker=f"memory://{request.node.name}") as app:
        yield app


class Flaky:
    """A broker that is away for its first calls; it takes each call's time as given."""

    def __init__(self, failures: int, spends: float = 0.0) -> None:
        self.failures = failures
        self.spends = spends
        self.timeouts: list[float] = []
        self.stored: list[Outgoing] = []

    def send(self, batch: Sequence[Outgoing], timeout: float) -> None:
        self.timeouts.append(timeout)
        threading.Event().wait(min(self.spends, timeout))
        if len(self.timeouts) <= self.failures:
            raise BrokerUnavailable("away")
        self.stored.extend(batch)


def producer(app: Celeriac, broker: Any) -> Producer:
    return Producer(app.conf, lambda: broker, lambda: UTC)


def test_options_become_a_message(app: Celeriac) -> None:
    before = time.time()
    call = app.producer.call(
        "proj.add", (1,), {}, {"countdown": 10, "expires": timedelta(minutes=1), "priority": 4, "queue": "q",
                               "time_limit": timedelta(seconds=5), "shadow": "s", "headers": {"a": 1},
                               "ignore_result": False, "reply_to": "r"},
    )  # fmt: skip
    options = call.message.options
    assert (call.queue, call.priority, options.shadow, options.headers) == ("q", 4, "s", {"a": 1})
    assert (options.time_limit, options.ignore_result, options.reply_to) == (5.0, False, "r")
    assert call.due_at is not None
    assert call.due_at - before == pytest.approx(10, abs=1)
    assert options.expires is not None
    assert options.expires - before == pytest.approx(60, abs=1)


def test_an_aware_eta_is_a_point_in_time(app: Celeriac) -> None:
    moment = datetime(2030, 1, 1, 12, tzinfo=UTC)
    assert app.producer.call("x", (), {}, {"eta": moment}).due_at == moment.timestamp()
    assert app.producer.call("x", (), {}, {"eta": moment.isoformat()}).due_at == moment.timestamp()


def test_an_id_of_the_callers_own_form_is_kept(app: Celeriac) -> None:
    assert app.producer.call("x", (), {}, {"task_id": "order-17"}).message.id == "order-17"


def test_a_route_may_give_options_too(app: Celeriac) -> None:
    app.conf.task_routes = {"x": {"queue": "q", "priority": 7}}
    assert app.producer.call("x", (), {}, {}).priority == 7
    assert app.producer.call("x", (), {}, {"priority": 1}).priority == 1


def test_an_undeclared_queue_is_refused(app: Celeriac) -> None:
    app.conf.update(task_create_missing_queues=False, task_queues=["a"])
    with pytest.raises(QueueNotFound):
        app.send_task("x", queue="b")


def test_pickle_is_refused_unless_it_is_accepted(app: Celeriac) -> None:
    with pytest.raises(ContentDisallowed):
        app.send_task("x", serializer="pickle")
    app.conf.accept_content = ["pickle", "msgpack"]
    app.send_task("x", ({1},), serializer="pickle", compression="zlib")


def test_a_failed_send_is_tried_again(app: Celeriac) -> None:
    broker = Flaky(failures=2)
    producer(app, broker).send(app.producer.call("x", (), {}, {}))
    assert len(broker.stored) == 1
    assert all(timeout <= app.conf.broker_publish_timeout for timeout in broker.timeouts)


def test_a_send_ends_within_its_time(app: Celeriac) -> None:
    app.conf.update(broker_publish_timeout=0.2, task_publish_retry_policy={"max_retries": None})
    broker = Flaky(failures=1000, spends=0.05)
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            producer(app, broker).send(app.producer.call("x", (), {}, {}))
    assert time.monotonic() - started < 0.4 + LENIENT


def test_a_send_is_tried_once_where_the_caller_says_so(app: Celeriac) -> None:
    broker = Flaky(failures=1)
    with pytest.raises(BrokerUnavailable):
        producer(app, broker).send(app.producer.call("x", (), {}, {}), retry=False)
    assert len(broker.timeouts) == 1


def test_nothing_of_many_is_sent_when_one_cannot_be_written(app: Celeriac) -> None:
    calls = [app.producer.call("x", (value,), {}, {}) for value in (1, 2, object())]
    with pytest.raises(EncodeError):
        app.send_many(calls)
    assert app.broker.stats("celery").ready == 0


def test_an_event_tells_what_was_sent_to_those_who_listen(app: Celeriac) -> None:
    heard: list[events.TaskSent] = []
    events.BUS.listen(events.TaskSent, heard.append)
    try:
        app.send_task("x", task_id="one")
        app.send_many([app.producer.call("y", (), {}, {"task_id": "two"})])
    finally:
        events.BUS.forget(events.TaskSent, heard.append)
    assert [(event.id, event.task, event.queue) for event in heard] == [
        ("one", "x", "celery"),
        ("two", "y", "celery"),
    ]


def test_a_broker_that_is_not_there_is_an_error_in_time() -> None:
    with Celeriac(
        "x", broker="redis://127.0.0.1:1/0", broker_publish_timeout=0.5, set_as_current=False
    ) as app:
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                app.send_task("x")
            assert time.monotonic() - started < 0.5 + LENIENT


def test_many_keys_are_distinct_and_in_order() -> None:
    keys = new_keys(10_000)
    assert len(set(keys)) == 10_000
    assert keys == sorted(keys)
    assert all(key[6] >> 4 == 7 and key[8] >> 6 == 2 for key in keys)
    assert all(message.created_at(key) for key in keys)


def test_only_bodies_of_some_size_are_compressed() -> None:
    with Celeriac("x", broker="memory://compressed", task_compression="zlib") as app:
        small, large = app.producer.call("t", (1,), {}, {}), app.producer.call("t", ("a" * 5000,), {}, {})
        assert message.decode(app.producer.outgoing(small).data).options.compression is None
        data = app.producer.outgoing(large).data
        assert len(data) < 200 and message.decode(data).args == ["a" * 5000]
        app.conf.task_compression_min_size = 0
        assert message.decode(app.producer.outgoing(small).data).options.compression == "zlib"
        app.conf.task_compression_min_size = 10_000
        assert len(app.producer.outgoing(large).data) > 5000


def test_a_soft_limit_behind_the_hard_one_is_refused(app: Celeriac) -> None:
    text = "soft_time_limit must be less than or equal to time_limit"
    with pytest.raises(ValueError, match=text):
        app.send_task("t", soft_time_limit=3, time_limit=2)

    @app.task(soft_time_limit=3, time_limit=2)
    def one() -> None: ...

    for _ in range(2):
        with pytest.raises(ValueError, match=text):
            one.delay()
    one.soft_time_limit = 1
    one.apply_async(time_limit=5, soft_time_limit=5)


def test_properties_travel(app: Celeriac) -> None:
    call = app.producer.call("t", (), {}, {"app_id": "shop", "correlation_id": "c"})
    request = Request(message.decode(app.producer.outgoing(call).data))
    assert (request.properties["app_id"], request.correlation_id) == ("shop", "c")
    assert request.as_execution_options()["app_id"] == "shop"


def test_a_group_takes_16_bytes_of_its_members(app: Celeriac) -> None:
    group_id = message.new_id()
    call = app.producer.call("t", (), {}, {"group_id": group_id, "group_index": 1})
    assert len(call.message.options.group) == 16
    assert Request(message.decode(app.producer.outgoing(call).data)).group == group_id
    assert Request(app.producer.call("t", (), {}, {"group_id": "mine"}).message).group == "mine"


def test_sending_by_name_knows_the_tasks_own_options(app: Celeriac) -> None:
    @app.task(name="known", queue="video", priority=4, ignore_result=False)
    def known() -> None: ...

    result = app.send_task("known")
    assert app.broker.stats("video").ready == 1
    assert result.ignored is False
    app.send_task("known", queue="audio")
    assert app.broker.stats("audio").ready == 1
