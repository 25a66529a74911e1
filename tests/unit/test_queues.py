"""What is bound to what: queues and exchanges, as settings declare them."""

from __future__ import annotations

from typing import Any, cast

import pytest

from celeriac import Broadcast, Celeriac, Exchange, Queue, group
from celeriac.brokers import room
from celeriac.exceptions import ImproperlyConfigured, QueueFull, QueueNotFound
from celeriac.queues import Bindings, binding, broadcasts
from celeriac.routing import usual_queues
from celeriac.wire import WorkerOptions
from celeriac.worker.template import queues_of

MEDIA = Exchange("media", type="direct")
NEWS = Exchange("news", type="topic")
ALL = Exchange("all", type="fanout")
QUEUES = [
    "plain",
    Queue("video", MEDIA, routing_key="media.video"),
    Queue("image", MEDIA, routing_key="media.image"),
    Queue("both", [binding(MEDIA, "media.video"), binding(MEDIA, "media.image")]),
    Queue("world", NEWS, routing_key="news.*"),
    Queue("any", NEWS, "#", bindings=[binding(ALL)]),
    Queue("loud", ALL),
]


def an_app(**settings: Any) -> Celeriac:
    return Celeriac("queues", broker="memory://queues", set_as_current=False, **settings)


@pytest.mark.parametrize(
    ("pattern", "key", "fits"),
    [
        ("a.b", "a.b", True), ("a.b", "a", False), ("a.*", "a.b", True), ("a.*", "a", False),
        ("a.*", "a.b.c", False), ("a.#", "a", True), ("a.#", "a.b.c", True), ("#", "", True), ("#.c", "a.b.c", True),
        ("#.b", "a.b.c", False), ("*.b.#", "a.b.c.d", True), ("a.#.d.#.f", "a.b.d.e.f", True),
        ("a.#.d.#.f", "a.b.e.f", False), ("#.#", "a", True), ("feed.#", "feeds.x", False),
    ],
)  # fmt: skip
def test_a_pattern_is_words(pattern: str, key: str, fits: bool) -> None:
    topic = an_app(task_queues=[Queue("q", Exchange("x", "topic"), pattern)])
    assert bool(Bindings(topic.conf).queues_of("x", key)) is fits


def test_a_pattern_of_many_wildcards_takes_no_time() -> None:
    topic = an_app(task_queues=[Queue("q", Exchange("x", "topic"), "#.a." * 40 + "b")])
    assert Bindings(topic.conf).queues_of("x", "a." * 400 + "c") == ()


@pytest.mark.parametrize(
    ("options", "queues"),
    [
        ({"exchange": "media", "routing_key": "media.video"}, ["video", "both"]),
        ({"exchange": MEDIA, "routing_key": "media.image"}, ["image", "both"]),
        ({"exchange": "news", "routing_key": "news.sport"}, ["world", "any"]),
        ({"exchange": "news", "routing_key": "weather.sun"}, ["any"]),
        ({"exchange": "all"}, ["any", "loud"]),
        ({"exchange": "", "routing_key": "somewhere"}, ["somewhere"]),
        ({"routing_key": "plain"}, ["plain"]),
        ({"queue": "video"}, ["video"]),
        ({"queue": "loud", "exchange": "all", "routing_key": "x"}, ["loud"]),
        ({"queue": Queue("new", NEWS, "news.*")}, ["new"]),
        ({}, ["celery"]),
    ],
)
def test_a_call_goes_to_every_queue_that_is_bound(options: dict[str, Any], queues: list[str]) -> None:
    with an_app(task_queues=QUEUES) as app:
        app.broker.queues()
        before = {name: app.broker.stats(name).ready for name in queues}
        app.send_task("x", **options)
        assert {name: app.broker.stats(name).ready - before[name] for name in queues} == dict.fromkeys(
            queues, 1
        )
        call = app.producer.call("x", (), {}, options)
        assert [call.queue, *call.others] == queues


def test_copies_have_the_same_id(request: pytest.FixtureRequest) -> None:
    with Celeriac("copies", broker="memory://copies", set_as_current=False, task_queues=QUEUES) as app:
        result = app.send_task("x", exchange="all")
        for name in ("any", "loud"):
            [message] = app.broker.find(name, b"x")
            assert message[1:17].hex() == str(result.id).replace("-", "")


def test_a_group_goes_to_every_queue_that_is_bound() -> None:
    with Celeriac("groups", broker="memory://groups", set_as_current=False, task_queues=QUEUES) as app:

        @app.task(exchange="all")
        def x() -> None: ...

        group(x.s() for _ in range(3)).delay()
        assert [app.broker.stats(name).ready for name in ("any", "loud")] == [3, 3]
        x.delay()
        x.apply_async(queue="plain")
        x.apply_async(exchange="media", routing_key="media.video")
        assert [app.broker.stats(name).ready for name in ("any", "loud", "plain", "video", "both")] == [
            4,
            4,
            1,
            1,
            1,
        ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"exchange": "media", "routing_key": "media.sound"}, "'video' by 'media.video'"),
        ({"exchange": "nothing"}, "no queue of task_queues is bound to it"),
    ],
)
def test_what_would_go_nowhere_is_refused(options: dict[str, Any], told: str) -> None:
    with an_app(task_queues=QUEUES) as app, pytest.raises(QueueNotFound, match=told):
        app.send_task("x", **options)


def test_the_defaults_of_queues_and_calls() -> None:
    queues = [Queue("default", routing_key="task.#"), Queue("feed", routing_key="feed.#"), Queue("usual")]
    app = an_app(
        task_queues=queues, task_default_queue="default", task_default_exchange="tasks",
        task_default_exchange_type="topic", task_default_routing_key="task.default",
        task_routes={
            "proj.feed": {"queue": "feed", "routing_key": "feed.import"}, "proj.key": {"routing_key": "feed.x"},
            "proj.all": {"exchange": "tasks", "exchange_type": "topic"},
        },
    )  # fmt: skip
    bindings = Bindings(app.conf)
    assert bindings.queues_of("tasks", "task.default") == ("default", "usual")
    for name, queues_of_call in (
        ("feed", ["feed"]),
        ("key", ["feed"]),
        ("all", ["default"]),
        ("x", ["default"]),
    ):
        call = app.producer.call(f"proj.{name}", (), {}, {})
        assert [call.queue, *call.others][:1] == queues_of_call
    assert usual_queues(app.conf) == ["default", "feed", "usual"]


def test_the_old_form_of_queues() -> None:
    app = an_app(task_queues={
        "default": {"exchange": "default", "binding_key": "default"},
        "feeds": {"exchange": "feeds", "exchange_type": "topic", "routing_key": "feed.#"}, "bare": {},
    })  # fmt: skip
    assert usual_queues(app.conf) == ["default", "feeds", "bare"]
    assert Bindings(app.conf).queues_of("feeds", "feed.import") == ("feeds",)


@pytest.mark.parametrize(
    ("queues", "told"),
    [
        ([Queue("a", Exchange("x", "direct")), Queue("b", Exchange("x", "topic"))], "of type 'topic'"),
        ([Queue("a", Exchange("x", "headers"))], "'headers'"),
    ],
)
def test_exchanges_that_cannot_be_are_told(queues: Any, told: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=told):
        Bindings(an_app(task_queues=queues).conf)


def test_a_full_queue_refuses_a_send() -> None:
    full = [Queue("small", max_length=2), Queue("other", queue_arguments={"x-max-length": 1}), "free"]
    with Celeriac("full", broker="memory://full", set_as_current=False, task_queues=full) as app:

        @app.task(queue="small")
        def x() -> None: ...

        x.delay()
        x.apply_async(countdown=600)
        for send in (x.delay, lambda: x.apply_async(countdown=600), lambda: group(x.s(), x.s()).delay()):
            with pytest.raises(QueueFull, match=r"the queue 'small' is full: its max_length is 2\."):
                send()
        x.apply_async(queue="other")
        with pytest.raises(QueueFull, match="'other'"):
            x.apply_async(queue="other")
        for _ in range(3):
            x.apply_async(queue="free")
        assert [app.broker.stats(name).ready for name in ("small", "other", "free")] == [1, 1, 3]
        assert app.control.purge() == 6
        x.delay()


@pytest.mark.parametrize(
    ("queue", "told"),
    [
        (Queue("a", max_length=0), "whole number"),
        (Queue("a", queue_arguments={"x-max-length": 5, "x-overflow": "drop-head"}), "refused instead"),
    ],
)
def test_lengths_that_cannot_be_are_told(queue: Queue, told: str) -> None:
    with an_app(task_queues=[queue]) as app, pytest.raises(ImproperlyConfigured, match=told):
        app.send_task("x")


def test_a_broker_that_keeps_no_lengths_says_so() -> None:
    class Other:
        place = "other://"

    with pytest.raises(ImproperlyConfigured, match="'small' a max_length, which is not kept at other://"):
        room.Limited(cast("Any", Other()), {"small": 2})


def test_a_broadcast_is_reached_by_its_name_and_by_its_exchange() -> None:
    app = an_app(task_queues=["plain", Broadcast("news"), Broadcast("alerts", alias="loud", expires=60)])
    bindings = Bindings(app.conf)
    assert bindings.names == ["plain", "news", "loud"]
    assert bindings.queues_of("news", "anything") == ("news",)
    assert bindings.queues_of("alerts", "anything") == ("loud",)
    assert broadcasts(app.conf.task_queues) == {"news": 300.0, "loud": 60.0}


def test_a_worker_takes_its_own_copies_behind_the_broadcast_itself() -> None:
    app = an_app(task_queues=["first", Broadcast("news"), "last"])
    queues = ("first", "news", "news.w@here", "last")
    assert queues_of(app.conf, WorkerOptions(), "w@here") == queues
    assert queues_of(app.conf, WorkerOptions(queues=("last", "first")), "w@here") == ("last", "first")
    assert queues_of(app.conf, WorkerOptions(exclude=("news",)), "w@here") == ("first", "last")


def test_kombus_own_broadcast_is_read_as_well() -> None:
    # As kombu 5 makes it: a name of its own for the queue, what was said as its alias.
    theirs = type("Broadcast", (), {})()
    theirs.name, theirs.alias, theirs.exchange = "bcast.5f1c", "news", Exchange("news", "fanout")
    app = an_app(task_queues=[theirs])
    assert Bindings(app.conf).queues_of("news", "") == ("news",)
    assert broadcasts(app.conf.task_queues) == {"news": 300.0}


@pytest.mark.parametrize("expires", [0, -1, "60", True, float("nan")])
def test_a_broadcast_keeps_copies_for_a_length_of_time(expires: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="the expires of 'news' must be seconds, more than 0"):
        broadcasts([Broadcast("news", expires=expires)])
    with pytest.raises(ImproperlyConfigured, match="needs a name"):
        Broadcast()
