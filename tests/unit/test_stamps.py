"""Where the stamps of a task go: to its next run, and to nothing else that it sends. Celery 5.7 has it so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import chain, chord, group
from celeriac.contrib.testing.app import TestApp
from celeriac.contrib.testing.inline import InlineWorker, inline_worker

MINE = {"batch": "mine"}


@pytest.fixture
def app() -> Iterator[Any]:
    with TestApp() as app:
        yield app


@pytest.fixture
def worker(app: Any) -> Iterator[InlineWorker]:
    with inline_worker(app) as worker:
        yield worker


@pytest.fixture
def stamps(app: Any) -> dict[str, Any]:
    """The stamps of every run, by what it was called."""
    seen: dict[str, Any] = {}

    @app.task(bind=True, name="leaf")
    def leaf(self: Any, *args: Any, called: str) -> int:
        seen[called] = self.request.stamps
        return 1

    @app.task(bind=True, name="fails")
    def fails(self: Any, *args: Any) -> None:
        raise ValueError(args)

    return seen


def named(app: Any, called: str) -> Any:
    return app.tasks["leaf"].s(called=called)


def run(app: Any, worker: InlineWorker, body: Any) -> None:
    """Run this function in a stamped task; it is given the task."""
    app.task(body, bind=True, name="stamped").s().stamp(**MINE).apply_async()
    worker.drain()


def test_what_a_task_sends_has_stamps_of_its_own_only(app: Any, worker: Any, stamps: dict[str, Any]) -> None:
    def sends(self: Any) -> None:
        named(app, "plain").apply_async()
        named(app, "own").stamp(color="red").apply_async()
        group(named(app, "member"), named(app, "member")).apply_async()
        chain(named(app, "first"), named(app, "second")).apply_async()
        chord([named(app, "header")], named(app, "body")).apply_async()
        app.send_task("leaf", kwargs={"called": "by name"})

    run(app, worker, sends)
    assert stamps.pop("own") == {"color": "red"}
    assert stamps == {
        "plain": {}, "member": {}, "first": {}, "second": {}, "header": {}, "body": {}, "by name": {},
    }  # fmt: skip


def test_a_further_run_keeps_the_stamps(app: Any, worker: Any, stamps: dict[str, Any]) -> None:
    def comes_again(self: Any, by_hand: bool = False) -> None:
        stamps[f"{'by hand' if by_hand else 'run'} {self.request.retries}"] = self.request.stamps
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        if not by_hand:
            self.signature_from_request(args=(True,), task_id="another").apply_async()

    run(app, worker, comes_again)
    assert stamps == dict.fromkeys(("run 0", "run 1", "by hand 1"), MINE)


@pytest.mark.parametrize("kind", ["task", "chain", "group", "chord"])
def test_what_replaces_a_task_has_stamps_of_its_own(
    app: Any, worker: Any, stamps: dict[str, Any], kind: str
) -> None:
    one, two = named(app, "one"), named(app, "two").stamp(color="red")
    made = {"task": two, "chain": chain(one, two), "group": group(one, two), "chord": chord([one], two)}
    run(app, worker, lambda self: self.replace(made[kind]))
    assert stamps.pop("two") == {"color": "red"}
    assert stamps == ({} if kind == "task" else {"one": {}})


def test_a_member_that_is_added_to_a_chord_has_stamps_of_its_own(
    app: Any, worker: Any, stamps: dict[str, Any]
) -> None:
    grows = app.task(lambda self: self.add_to_chord(named(app, "added")).id, bind=True, name="grows")
    chord([grows.s(), named(app, "member")], named(app, "body")).stamp(**MINE).apply_async()
    worker.drain()
    assert stamps == {"member": MINE, "body": MINE, "added": {}}


def test_callbacks_have_the_stamps_that_they_had_when_the_task_was_stamped(
    app: Any, worker: Any, stamps: dict[str, Any]
) -> None:
    for name in ("leaf", "fails"):
        signature = app.tasks[name].s(**({"called": name} if name == "leaf" else {}))
        for link in (signature.link, signature.link_error):
            link(named(app, f"{name}: linked before").set(immutable=True))
        signature.stamp(**MINE)
        for link in (signature.link, signature.link_error):
            link(named(app, f"{name}: linked behind").set(immutable=True))
        signature.apply_async()
    worker.drain()
    assert stamps == {
        "leaf": MINE, "leaf: linked before": MINE, "leaf: linked behind": {},
        "fails: linked before": MINE, "fails: linked behind": {},
    }  # fmt: skip


def test_an_error_callback_of_a_stamped_chord_is_stamped(
    app: Any, worker: Any, stamps: dict[str, Any]
) -> None:
    body = named(app, "body").on_error(named(app, "errback"))
    chord([app.tasks["fails"].s(), named(app, "member")], body).stamp(**MINE).apply_async()
    worker.drain()
    assert stamps == {"member": MINE, "errback": MINE}
