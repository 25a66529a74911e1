"""Which queue a call goes to."""

from __future__ import annotations

import re
from typing import Any

import pytest

from celeriac import Celeriac, routing
from celeriac.exceptions import ImproperlyConfigured, QueueNotFound
from celeriac.wire import WorkerOptions
from celeriac.worker.template import queues_of


def conf(**settings: Any) -> Any:
    return Celeriac("routing", broker="memory://routing", set_as_current=False, **settings).conf


ROUTES: dict[Any, Any] = {
    "proj.a": "one",
    "proj.b": {"queue": "two", "priority": 3},
    "feeds.*": {"queue": "feeds"},
    re.compile(r"(video|image)\..*"): "media",
}


@pytest.mark.parametrize(
    ("name", "queue"),
    [
        ("proj.a", "one"),
        ("proj.b", "two"),
        ("feeds.x.y", "feeds"),
        ("image.crop", "media"),
        ("other", "celery"),
    ],
)
def test_a_table_names_the_queue(name: str, queue: str) -> None:
    assert routing.route(name, None, conf(task_routes=ROUTES)) == queue


def test_the_caller_wins_over_the_table() -> None:
    assert routing.route("proj.a", "mine", conf(task_routes=ROUTES)) == "mine"


def test_an_exact_name_wins_over_a_pattern_before_it() -> None:
    assert routing.route("a.b", None, conf(task_routes={"a.*": "pattern", "a.b": "exact"})) == "exact"


def test_rules_are_asked_in_order() -> None:
    def function(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
        return {"queue": "from function"} if name == "x" else None

    routes = [{"y": "table"}, function, [("z*", "pairs")]]
    assert routing.route("y", None, conf(task_routes=routes)) == "table"
    assert routing.route("x", None, conf(task_routes=routes)) == "from function"
    assert routing.route("zoo", None, conf(task_routes=routes)) == "pairs"


def test_a_list_of_pairs_is_a_table() -> None:
    assert routing.route("b", None, conf(task_routes=[("a", "one"), ("b", "two")])) == "two"


def test_an_undeclared_queue_is_refused_when_queues_are_closed() -> None:
    closed = conf(task_queues=["video", "image"], task_create_missing_queues=False)
    assert routing.route("x", "video", closed) == "video"
    with pytest.raises(QueueNotFound, match="Did you mean 'video'"):
        routing.route("x", "vidoe", closed)


def test_a_route_that_cannot_be_read_is_told() -> None:
    with pytest.raises(ImproperlyConfigured, match="a route is the name of a queue"):
        routing.route("x", None, conf(task_routes={"x": 3}))


class MyRouter:
    """As Celery's guide writes one."""

    def route_for_task(self, task: str, args: Any = None, kwargs: Any = None) -> Any:
        return (
            {"queue": "routed", "exchange": "routed", "routing_key": "x"} if task == "proj.compress" else None
        )


@pytest.mark.parametrize("router", [MyRouter(), MyRouter, f"{__name__}.MyRouter", f"{__name__}:MyRouter"])
def test_a_router_is_a_class_its_instance_or_its_name(router: Any) -> None:
    routes = conf(task_routes=(router, {"celery.ping": "pings"}))
    assert routing.route("proj.compress", None, routes) == "routed"
    assert routing.route("celery.ping", None, routes) == "pings"


def test_a_worker_takes_from_no_undeclared_queue_when_queues_are_closed() -> None:
    closed = conf(task_queues=["video", "image"], task_create_missing_queues=False)
    options = WorkerOptions(app="x", queues=("celery", "image"))
    assert queues_of(closed, options, "one") == ("celery", "image")
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'video'"):
        queues_of(closed, WorkerOptions(app="x", queues=("vidoe",)), "one")
    assert queues_of(conf(), WorkerOptions(app="x", queues=("vidoe",)), "one") == ("vidoe",)


def test_workers_read_where_they_are_told() -> None:
    def places(**settings: Any) -> list[str]:
        with Celeriac("places", set_as_current=False, **settings) as app:
            assert (app.reader is app.broker) == (app.reader.place == app.broker.place)
            return [app.broker.place, app.reader.place]

    one, two = "memory://one", "memory://two"
    assert places(broker=one) == ["memory:one", "memory:one"]
    assert places(broker=one, broker_read_url=two) == ["memory:one", "memory:two"]
    assert places(broker=one, broker_write_url=two) == ["memory:two", "memory:one"]
    assert places(broker=one, broker_read_url=two, broker_write_url=two) == ["memory:two", "memory:two"]
