"""Signals: who is called, for which sender, for how long; and what receivers of messages can change."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import Celeriac, chord, context, events, message, signals
from celeriac.dispatch import Signal
from celeriac.exceptions import ImproperlyConfigured, SettingHasNoEffect, SignalIsNeverSent, UnknownOption


@pytest.fixture
def app() -> Iterator[Celeriac]:
    app = Celeriac("proj", broker="memory://signals", task_ignore_result=False)
    yield app
    app.broker.purge("celery")
    app.close()


@pytest.fixture
def heard() -> list[tuple[str, Any, dict[str, Any]]]:
    return []


@pytest.fixture
def listen(heard: list[Any]) -> Iterator[Any]:
    """Connects a receiver that keeps what it hears, until the test has ended."""
    connected: list[tuple[Signal, Any]] = []

    def connect(*found: Signal) -> None:
        for one in found:

            def keep(signal: Signal, sender: Any, **named: Any) -> None:
                heard.append((signal.name, sender, named))

            one.connect(keep, weak=False)
            connected.append((one, keep))

    yield connect
    for one, keep in connected:
        one.disconnect(keep)


@pytest.fixture
def change() -> Iterator[Any]:
    """Connects a receiver to `before_task_publish`, until the test has ended."""
    connected: list[Any] = []

    def connect(receiver: Any) -> None:
        connected.append(signals.before_task_publish.connect(receiver))

    yield connect
    for receiver in connected:
        signals.before_task_publish.disconnect(receiver)


def sent_message(app: Celeriac) -> message.Message:
    """The next message that waits."""
    consumer = app.broker.consumer(["celery"], "test", lease=30, max_deliveries=3)
    (delivery,) = consumer.take(1, 0)
    consumer.close()
    return message.decode(delivery.data)


# -- connecting -----------------------------------------------------------------------------------------------


def test_a_receiver_is_called_with_what_is_sent() -> None:
    done = Signal("done", ["x"])

    @done.connect
    def receive(**named: Any) -> str:
        return f"{named['x']} of {named['sender']}"

    assert done.send(sender="me", x=1) == [(receive, "1 of me")]
    assert done.send_robust("you", x=2) == [(receive, "2 of you")]
    assert done.has_listeners() and done.receivers == [receive]


@pytest.mark.parametrize(
    "given", [{}, {"sender": "me"}, {"weak": False}, {"dispatch_uid": "one"}, {"retry": True}]
)
def test_what_is_connected_can_be_disconnected(given: dict[str, Any]) -> None:
    done = Signal("done")

    @done.connect(**given)
    def receive(**named: Any) -> None: ...

    same = {name: given[name] for name in ("sender", "dispatch_uid") if name in given}
    assert len(done.send("me")) == 1
    assert done.disconnect(receive, **same)
    assert not done.disconnect(receive, **same)
    assert done.send("me") == [] and not done.has_listeners()


def test_a_sender_may_be_any_object_a_text_or_a_task(app: Celeriac) -> None:
    done, somebody = Signal("done"), object()

    @app.task(name="proj.add")
    def add(x: int) -> int:
        return x

    calls: list[str] = []
    done.connect(lambda **named: calls.append("object"), somebody, weak=False)
    done.connect(lambda **named: calls.append("name"), sender="proj.add", weak=False)
    done.connect(lambda **named: calls.append("task"), sender=add, weak=False)
    for sender, expected in (
        (somebody, ["object"]), (object(), []), (None, []), (add, ["name", "task"]), ("proj.add", ["name", "task"]),
    ):  # fmt: skip
        calls.clear()
        done.send(sender)
        assert calls == expected


def test_a_decorator_may_be_given_the_sender_alone() -> None:
    done = Signal("done")

    @done.connect("me")
    def receive(**named: Any) -> None: ...

    assert len(done.send("me")) == 1 and done.send("you") == []


def test_a_receiver_that_nobody_keeps_goes_away() -> None:
    done = Signal("done")

    class Keeper:
        def receive(self, **named: Any) -> None: ...

    keeper = Keeper()
    done.connect(keeper.receive)
    assert len(done.send("me")) == 1
    del keeper
    gc.collect()
    assert done.send("me") == [] and not done.has_listeners()


def test_the_same_receiver_is_connected_once() -> None:
    done = Signal("done")

    def receive(**named: Any) -> None: ...

    for _ in range(2):
        done.connect(receive)
        done.connect(lambda **named: None, weak=False, dispatch_uid="mine")
    assert len(done.send("me")) == 2


def test_a_receiver_that_raises_is_logged_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    done = Signal("done")

    def fails(**named: Any) -> None:
        raise LookupError("no")

    def works(**named: Any) -> str:
        return "yes"

    done.connect(fails)
    done.connect(works)
    with caplog.at_level(logging.ERROR, "celeriac.signals"):
        (_, first), (_, second) = done.send("me")
    assert isinstance(first, LookupError) and second == "yes"
    assert "Signal handler" in caplog.text and "LookupError" in caplog.text


def test_a_receiver_may_be_called_until_it_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    done, pauses, left = Signal("done"), list[float](), [3]
    monkeypatch.setattr("celeriac.clock.sleep", pauses.append)

    @done.connect(retry=True)
    def receive(**named: Any) -> str:
        left[0] -= 1
        if left[0]:
            raise ConnectionError
        return "at last"

    assert [answer for _, answer in done.send("me")] == ["at last"]
    assert pauses == [2.0, 4.0]


def test_a_receiver_takes_arguments_by_name() -> None:
    with pytest.raises(ValueError, match="must accept keyword arguments"):
        Signal("done").connect(lambda sender: None)


def test_who_connects_to_a_signal_that_is_never_sent_is_warned() -> None:
    with pytest.warns(SignalIsNeverSent, match="eventlet"):
        signals.eventlet_pool_started.connect(lambda **named: None)


# -- what it costs --------------------------------------------------------------------------------------------


def test_a_signal_listens_only_while_it_has_receivers() -> None:
    assert not events.BUS.wanted(events.TaskSending)

    def receive(**named: Any) -> None: ...

    signals.before_task_publish.connect(receive)
    assert events.BUS.wanted(events.TaskSending)
    signals.before_task_publish.disconnect(receive)
    assert not events.BUS.wanted(events.TaskSending)
    signals.before_task_publish.connect(receive)
    del receive
    gc.collect()
    assert signals.before_task_publish.send("x") == []
    assert not events.BUS.wanted(events.TaskSending)


def test_who_connects_to_nothing_loads_nothing() -> None:
    program = (
        "from celeriac import Celeriac; import sys; app = Celeriac('x', broker='memory://')\n"
        "app.send_task('y'); print('celeriac.signals' in sys.modules, 'celeriac.drafts' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# -- messages -------------------------------------------------------------------------------------------------


def test_a_message_is_shown_as_celery_shows_it(app: Celeriac, listen: Any, heard: list[Any]) -> None:
    listen(signals.before_task_publish, signals.after_task_publish, signals.task_sent)
    result = app.send_task("proj.add", (1,), {"y": 2}, headers={"mine": 1}, queue="celery")
    (before, sender, named), (after, _, later), (_, _, old) = heard
    assert (before, after, sender) == ("before_task_publish", "after_task_publish", "proj.add")
    assert named["body"][:2] == ([1], {"y": 2}) and named["routing_key"] == later["routing_key"] == "celery"
    for headers in (named["headers"], later["headers"]):
        assert (headers["id"], headers["task"], headers["root_id"]) == (result.id, "proj.add", result.id)
        assert headers["mine"] == 1 and headers["argsrepr"] == "(1,)"
    assert (old["task_id"], old["args"], old["eta"]) == (result.id, [1], None)


def test_a_members_seat_is_shown_by_its_id(app: Celeriac, listen: Any, heard: list[Any]) -> None:
    listen(signals.before_task_publish)
    noop = app.task(name="noop")(lambda *args: None)
    result = chord([noop.s(), noop.s()], noop.s())()
    embedded = [named["body"][2] for _, _, named in heard if named["headers"]["id"] != result.id]
    assert [one["chord"] for one in embedded] == [[result.parent.id, 0], [result.parent.id, 1]]
    json.dumps(embedded)


def test_what_a_receiver_changes_travels(app: Celeriac, change: Any) -> None:
    def receive(headers: Any, body: Any, properties: Any, **named: Any) -> None:
        headers["trace"] = "abc"
        headers["shadow"] = "another"
        del headers["unwanted"]
        body[0].append(2)
        body[1]["y"] = 3
        properties.update(priority=7, reply_to="me", app_id="shop")

    change(receive)
    app.send_task("proj.add", (1,), headers={"unwanted": 1, "kept": 2})
    found = sent_message(app)
    assert (found.args, found.kwargs) == ([1, 2], {"y": 3})
    assert found.options.headers == {"trace": "abc", "kept": 2}
    assert (found.options.shadow, found.options.priority, found.options.reply_to) == ("another", 7, "me")
    assert found.options.properties == {"app_id": "shop"}


def test_a_change_without_effect_is_told(app: Celeriac, change: Any) -> None:
    def receive(headers: Any, **named: Any) -> None:
        headers["retries"] = 5

    change(receive)
    with pytest.warns(SettingHasNoEffect, match="'retries'"):
        app.send_task("proj.add")
    assert sent_message(app).options.retries == 0


@pytest.mark.parametrize(
    ("name", "error"), [("priority", ImproperlyConfigured), ("prioritty", UnknownOption)]
)
def test_a_wrong_property_is_an_error(app: Celeriac, change: Any, name: str, error: type[Exception]) -> None:
    def receive(properties: Any, **named: Any) -> None:
        properties[name] = 700

    change(receive)
    with pytest.raises(error, match="priori"):
        app.send_task("proj.add")


def test_every_message_of_many_is_offered_once(
    app: Celeriac, listen: Any, heard: list[Any], change: Any
) -> None:
    listen(signals.before_task_publish, signals.after_task_publish)

    def receive(headers: Any, **named: Any) -> None:
        headers["n"] = len(heard)

    change(receive)
    app.send_many([app.producer.call("proj.add", (n,), {}, {}) for n in range(3)])
    assert [name for name, _, _ in heard] == ["before_task_publish"] * 3 + ["after_task_publish"] * 3
    assert [named["headers"]["n"] for _, _, named in heard[3:]] == [1, 2, 3]


def test_a_coroutine_s_message_is_offered_with_what_is_around_it(
    app: Celeriac, listen: Any, heard: list[Any]
) -> None:
    @app.task(name="proj.add")
    def add(x: int) -> int:
        return x

    listen(signals.before_task_publish, signals.after_task_publish)
    result = asyncio.run(add.aapply_async((1,), headers={"mine": 1}))
    assert [(name, named["headers"]["id"]) for name, _, named in heard] == [
        ("before_task_publish", result.id), ("after_task_publish", result.id),
    ]  # fmt: skip


# -- runs in their caller -------------------------------------------------------------------------------------


def test_a_run_in_its_caller_is_told_too(app: Celeriac, listen: Any, heard: list[Any]) -> None:
    @app.task(name="proj.twice", bind=True, default_retry_delay=0)
    def twice(self: Any, x: int) -> int:
        if not self.request.retries:
            raise self.retry()
        return x / (x - 1)

    listen(
        signals.before_task_publish, signals.task_prerun, signals.task_retry, signals.task_success,
        signals.task_failure, signals.task_postrun,
    )  # fmt: skip
    twice.apply((2,))
    assert [name for name, _, _ in heard] == [
        "task_prerun", "task_retry", "task_postrun", "task_prerun", "task_success", "task_postrun",
    ]  # fmt: skip
    assert {sender for _, sender, _ in heard} == {twice}
    heard.clear()
    twice.apply((1,))
    name, _, failure = heard[4]
    assert name == "task_failure" and isinstance(failure["exception"], ZeroDivisionError)
    assert "ZeroDivisionError" in str(failure["einfo"]) and failure["args"] == [1]
    assert (heard[5][2]["state"], heard[5][2]["retval"]) == ("FAILURE", failure["exception"])


def test_a_receiver_finds_the_run_around_it(app: Celeriac) -> None:
    @app.task(name="proj.add")
    def add(x: int) -> int:
        return x

    found: list[Any] = []

    def look(sender: Any, **named: Any) -> None:
        found.append((context.current_task(), sender.request.id))

    for one in (signals.task_prerun, signals.task_success, signals.task_postrun):
        one.connect(look)
    result = add.apply((1,))
    assert found == [(add, result.id)] * 3
    for one in (signals.task_prerun, signals.task_success, signals.task_postrun):
        one.disconnect(look)


def test_all_of_celerys_names_are_there() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in signals.__all__:
            assert isinstance(getattr(signals, name), Signal) and getattr(signals, name).name == name
