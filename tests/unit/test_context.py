"""What a running task knows of its own call."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence

import pytest

from celeriac import Celeriac, brokers, context, current_app, current_task, urls
from celeriac.brokers.contract import Ack, Delivery, Outgoing, Record, Settlement
from celeriac.context import Request
from celeriac.exceptions import ImproperlyConfigured
from celeriac.message import Message, Options, encode, key_of, new_key, wire_id
from celeriac.results.memory import MemoryResults

ROOT = "0192f0c0-0000-7000-8000-000000000001"


def request(**options: object) -> Request:
    message = Message(new_key(), "proj.add", [1], {"y": 2}, Options(**options))  # type: ignore[arg-type]
    return Request(message, Delivery("video", b"", "me", 1, crashes=1), "host")


def test_a_request_tells_what_the_message_says() -> None:
    one = request(priority=3, retries=2, group="g", group_index=4, headers={"tenant": "a"}, time_limit=9.0)
    assert (one.task, one.args, one.kwargs, one.retries) == ("proj.add", [1], {"y": 2}, 2)
    assert (one.group, one.group_index, one.hostname, one.correlation_id) == ("g", 4, "host", one.id)
    assert one.delivery_info["routing_key"] == "video"
    assert one.delivery_info["priority"] == 3
    assert one.delivery_info["redelivered"]
    assert one.timelimit == [9.0, None]
    assert (one.is_eager, one.called_directly) == (False, False)


def test_root_and_parent_are_ids() -> None:
    one = request(root=wire_id(ROOT), parent="my own id")
    assert (one.root_id, one.parent_id) == (ROOT, "my own id")
    assert request().root_id is not None
    assert request().parent_id is None
    assert key_of(ROOT) == wire_id(ROOT)


def test_headers_are_attributes_too() -> None:
    one = request(headers={"tenant": "a"})
    assert (one.tenant, one.get("tenant"), one.get("nothing", 7)) == ("a", "a", 7)
    with pytest.raises(AttributeError):
        _ = one.nothing


def test_a_task_may_change_its_request() -> None:
    one = request(chain=[{"task": "b"}])
    assert one.is_chained
    one.chain = None
    one.update(retries=5, colour="red")
    assert (one.chain, one.retries, one.colour) == (None, 5, "red")
    assert "retries" in one.as_execution_options()


def test_an_empty_request_is_of_a_direct_call() -> None:
    one = Request(called_directly=True)
    assert (one.id, one.args, one.retries, one.called_directly) == (None, None, 0, True)


def test_the_current_app_is_seen_by_other_threads() -> None:
    with Celeriac("one", broker="memory://one") as app:
        seen: list[object] = []
        thread = threading.Thread(target=lambda: seen.append(context.current_app()))
        thread.start()
        thread.join()
        assert seen == [app]
        assert current_app == app
        assert current_app.main == "one"


def test_without_an_application_the_error_says_how_to_make_one() -> None:
    context.APP.set(None)
    context.APPS.set_default(None)
    with pytest.raises(ImproperlyConfigured, match="there is no application yet"):
        context.current_app()
    assert not current_task


def test_a_task_called_by_a_task_has_a_request_of_its_own() -> None:
    with Celeriac("two", broker="memory://two") as app:

        @app.task(bind=True)
        def inner(self):  # type: ignore[no-untyped-def]
            return self.request.called_directly, self.request.id

        @app.task(bind=True, ignore_result=False)
        def outer(self):  # type: ignore[no-untyped-def]
            found = inner()
            return [*found, self.request.called_directly, current_task.name]

        assert outer.apply().get() == [True, None, False, outer.name]


def test_limits_are_the_callers_else_the_tasks() -> None:
    with Celeriac("x", broker="memory://limits") as app:

        @app.task(time_limit=60, soft_time_limit=45)
        def one() -> None: ...

        own = Request(Message(new_key(), one.name))
        own.task_object = one
        assert (own.time_limit, own.soft_time_limit, own.timelimit) == (60, 45, [60, 45])
        asked = Request(Message(new_key(), one.name, options=Options(time_limit=10.0)))
        asked.task_object = one
        assert asked.timelimit == [10, 45]
    assert (request().time_limit, request().soft_time_limit) == (None, None)


def test_a_message_that_was_put_back_is_redelivered() -> None:
    message = Message(new_key(), "t", options=Options(redelivered=True))
    assert Request(message, Delivery("q", b"", "me", 1)).delivery_info["redelivered"]
    assert not Request(Message(new_key(), "t"), Delivery("q", b"", "me", 1)).delivery_info["redelivered"]


class Overtaken(MemoryResults):
    """A store that is so slow that another worker stores the end before anything is put from here."""

    def __init__(self, url: str, overtake: Callable[[], None]) -> None:
        super().__init__(urls.parse(url), {})
        self._overtake = overtake

    def put(self, records: Sequence[Record]) -> None:
        self._overtake()
        super().put(records)


@pytest.mark.parametrize("is_shared", [True, False])
def test_what_is_noted_on_the_way_replaces_no_end(is_shared: bool) -> None:
    url = f"memory://{secrets.token_hex(8)}"
    broker, store = (
        brokers.connect(url),
        MemoryResults(urls.parse(url if is_shared else url + "-results"), {}),
    )
    broker.send([Outgoing("celery", encode(Message(new_key(), "add")))], 1.0)
    first, second = (broker.consumer(["celery"], name, lease=60.0, max_deliveries=3) for name in "ab")
    (delivery,) = first.take(1, 1.0)
    end, half = (Record(delivery.key, data) for data in (b"end", b"half"))

    def overtake() -> None:
        broker.surrender(["celery"], "a", {}, {}, 3)
        for again in second.take(1, 0):
            store.put([end])
            second.settle([Settlement(again, Ack())])

    one = Request(None, delivery)
    one.holder = first
    assert one.note(half, Overtaken(url, overtake) if is_shared else store)
    assert store.get([delivery.key]) == {delivery.key: b"half"}
    overtake()
    assert not one.note(half, store)
    assert store.get([delivery.key]) == {delivery.key: b"end"}
