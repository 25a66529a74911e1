"""Programs such as Celery's user guide shows, against a real worker: calling, tasks, workflows, signals, routing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests import processes, servers

from celeriac import chain, chord, group, signals, signature
from celeriac.exceptions import Ignore, QueueNotFound, TaskRevokedError, TimeoutError
from celeriac.result import AsyncResult, GroupResult, ResultSet, allow_join_result

HERE = Path(__file__).parent
WAIT = 30.0


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def guide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The application, with a worker of one child for all its queues."""
    folder = tmp_path_factory.mktemp("guide")
    if request.param == "sqlite":
        url = f"sqlite:///{folder}/guide.sqlite"
    else:
        server, prefix = request.getfixturevalue("redis_server"), request.getfixturevalue("redis_prefix")
        url = servers.with_prefix(server, f"{prefix}-guide:")
    environ = processes.bare_environ(GUIDE_BROKER=url, PYTHONPATH=str(HERE))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GUIDE_BROKER", url)
        patched.syspath_prepend(str(HERE))
        sys.modules.pop("guide", None)
        import guide

        log_path = folder / "log"
        with log_path.open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "celeriac", "-A", "guide", "worker", "-c", "1", "-l", "INFO"],
                cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            wait_until(lambda: worker.poll() is not None or " ready." in log_path.read_text(), log_path)
            assert worker.poll() is None, log_path.read_text()
            guide.log_path = log_path
            yield guide
        finally:
            worker.terminate()
            worker.wait(WAIT)
            guide.app.close()


@pytest.fixture(autouse=True)
def _current(guide: Any) -> None:  # pyright: ignore[reportUnusedFunction]
    guide.app.set_current()


def wait_until(is_so: Callable[[], Any], log: Path | None = None) -> None:
    until = time.monotonic() + WAIT
    while not is_so():
        assert time.monotonic() < until, "not in time" if log is None else log.read_text()
        time.sleep(0.02)


# -- calling --------------------------------------------------------------------------------------------------


def test_a_call_and_its_options(guide: Any):
    assert guide.add.delay(2, 2).get(timeout=WAIT) == 4
    assert (
        guide.add.apply_async((2, 2), countdown=0.05, serializer="json", compression="zlib").get(timeout=WAIT)
        == 4
    )
    soon = datetime.now(UTC) + timedelta(seconds=0.05)
    assert (
        guide.add.apply_async(args=[2], kwargs={"y": 3}, eta=soon, expires=60, priority=5).get(timeout=WAIT)
        == 5
    )
    assert guide.add(4, 4) == 8
    assert guide.app.send_task("guide.add", args=[2, 2], queue="urgent").get(timeout=WAIT) == 4
    with pytest.raises(TaskRevokedError):
        guide.add.apply_async((1, 1), expires=datetime.now(UTC) - timedelta(days=1)).get(timeout=WAIT)


def test_callbacks_and_errbacks(guide: Any):
    result = guide.add.apply_async((2, 2), link=guide.add.s(16))
    assert result.get(timeout=WAIT) == 4
    wait_until(lambda: result.children)
    assert result.children[0].get(timeout=WAIT) == 20
    assert [value for _, value in result.collect()] == [4, 20]
    guide.add.apply_async((2, 2), link=[guide.add.s(16), guide.sees.si("linked")])
    wait_until(lambda: guide.app.AsyncResult("linked").ready())
    failed = guide.fails.apply_async(("oops",), link_error=guide.error_handler.s())
    with pytest.raises(KeyError, match="oops"):
        failed.get(timeout=WAIT)
    told = guide.app.AsyncResult(f"error-{failed.id}")
    assert told.get(timeout=WAIT) == "KeyError 'oops'"


def test_progress_is_seen_by_who_waits(guide: Any):
    seen: list[Any] = []
    names = [f"{n}.png" for n in range(3)]
    result = guide.upload_files.delay(names)
    assert result.get(timeout=WAIT, on_message=seen.append, propagate=False) == "done"
    assert seen[-1]["status"] == "SUCCESS" and {body["status"] for body in seen} <= {"PROGRESS", "SUCCESS"}


def test_what_a_run_knows_of_itself(guide: Any):
    result = guide.whoami.apply_async(headers={"token": "abc"}, shadow="me")
    told = result.get(timeout=WAIT)
    assert (told["id"], told["task"], told["retries"], told["eager"]) == (result.id, "guide.whoami", 0, False)
    assert (told["root"], told["parent"], told["is_context"]) == (result.id, None, True)
    assert (
        told["headers"]["token"] == "abc"
        and told["shadow"] == "me"
        and told["hostname"].startswith("celery@")
    )


# -- tasks ----------------------------------------------------------------------------------------------------


def test_task_classes_keep_what_is_theirs_in_each_process(guide: Any):
    first, second = (guide.count_rows.delay().get(timeout=WAIT) for _ in range(2))
    assert second == first + 1
    assert guide.authenticate.delay("george").get(timeout=WAIT) == "passwd"
    failed = guide.fails.delay("x")
    with pytest.raises(KeyError):
        failed.get(timeout=WAIT)
    assert f"KeyError {failed.id} KeyError" in guide.list_failures.delay().get(timeout=WAIT)
    assert failed.failed() and "KeyError" in failed.traceback


def test_retries(guide: Any):
    assert guide.fetch.delay("http://x").get(timeout=WAIT) == "http://x after 1"
    assert guide.refresh.delay(2).get(timeout=WAIT) == 2
    with pytest.raises(ConnectionError, match="http://y"):
        guide.fetch.delay("http://y", fail=9).get(timeout=WAIT)


def test_a_task_may_ignore_its_run_and_say_why(guide: Any):
    result = guide.some_task.delay()
    wait_until(lambda: result.state == "SKIPPED")
    assert result.info == {"why": "not wanted"}
    with pytest.raises(TimeoutError):
        result.get(timeout=0.1)
    refused = guide.refuses.delay()
    wait_until(refused.ready)
    assert refused.state in ("REJECTED", "FAILURE")
    assert issubclass(Ignore, Exception)


def test_tasks_send_tasks_instead_of_waiting(guide: Any):
    last = guide.app.AsyncResult(guide.update_page_info.delay("http://x").get(timeout=WAIT))
    assert last.get(timeout=WAIT) == ["http://x", 10]
    body = guide.app.AsyncResult(guide.import_contacts.delay(5).get(timeout=WAIT))
    assert body.get(timeout=WAIT) == 15


def test_a_logger_writes_the_tasks_name(guide: Any):
    assert guide.says.delay("hello").get(timeout=WAIT) == "guide.says: hello"
    wait_until(lambda: "Saying hello" in guide.log_path.read_text(), guide.log_path)
    [line] = [line for line in guide.log_path.read_text().splitlines() if "Saying hello" in line]
    assert "guide.says[" in line


# -- workflows ------------------------------------------------------------------------------------------------


def test_signatures(guide: Any):
    add = guide.add
    for one in (
        signature("guide.add", args=(2, 2), countdown=0),
        add.signature((2, 2), countdown=0),
        add.s(2, 2),
    ):
        assert (one.args, one.kwargs, one.task) == ((2, 2), {}, "guide.add")
        assert one.delay().get(timeout=WAIT) == 4
    assert add.s(4).delay(2).get(timeout=WAIT) == 6
    assert add.s(2, 2)() == 4 and ~add.s(2, 2) == 4
    with_options = add.s(2, 2).set(queue="urgent")
    assert with_options.options == {"queue": "urgent"} and with_options.apply_async().get(timeout=WAIT) == 4
    partial = add.s(2).clone(args=(4,), kwargs={})
    assert partial.args == (4, 2)
    assert add.apply_async((2, 2), link=guide.sees.si("clean")).get(timeout=WAIT) == 4
    assert signature(dict(add.s(1, 2))).delay().get(timeout=WAIT) == 3


def test_chains(guide: Any):
    add, mul = guide.add, guide.mul
    res = chain(add.s(4, 4), mul.s(8), mul.s(10))()
    assert res.get(timeout=WAIT) == 640
    assert isinstance(res.parent, AsyncResult) and res.parent.parent.parent is None
    assert len(res.as_list()) == 3
    assert (add.s(2, 2) | add.s(4) | add.s(8))().get(timeout=WAIT) == 16
    assert (add.si(2, 2) | add.si(4, 4) | add.si(8, 8))().get(timeout=WAIT) == 16
    partial = add.s(4) | mul.s(8)
    assert partial(16).get(timeout=WAIT) == 160
    with pytest.raises(KeyError):
        (guide.fails.s("x") | add.s(1)).delay().get(timeout=WAIT)


def test_groups(guide: Any):
    add = guide.add
    res = group(add.s(i, i) for i in range(10))()
    assert res.get(timeout=WAIT) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert (res.ready(), res.successful(), res.failed(), res.waiting(), res.completed_count()) == (
        True, True, False, False, 10,
    )  # fmt: skip
    assert res.join(timeout=WAIT) == res.join_native(timeout=WAIT) == [one.get() for one in res]
    res.save()
    again = GroupResult.restore(res.id, app=guide.app)
    assert again == res and again is not None and sum(again.join(timeout=WAIT)) == 90
    again.delete()
    assert GroupResult.restore(res.id, app=guide.app) is None
    mixed = group([add.s(2, 2), guide.fails.s("x")]).apply_async()
    with pytest.raises(KeyError):
        mixed.get(timeout=WAIT)
    assert mixed.get(timeout=WAIT, propagate=False)[0] == 4
    told: list[Any] = []
    group(add.s(n, 0) for n in range(3))().get(
        timeout=WAIT, callback=lambda task_id, value: told.append(value)
    )
    assert told == [0, 1, 2]
    skewed = group(add.s(i, i) for i in range(3)).skew(start=0.01, stop=0.04, step=0.01)
    assert skewed.apply_async().get(timeout=WAIT) == [0, 2, 4]
    several = ResultSet([add.delay(1, 1), add.delay(2, 2)])
    assert sorted(value["result"] for _, value in several.iter_native(timeout=WAIT)) == [2, 4]


def test_chords(guide: Any):
    add, xsum = guide.add, guide.xsum
    assert chord(add.s(i, i) for i in range(10))(xsum.s()).get(timeout=WAIT) == 90
    assert chord((add.s(i, i) for i in range(10)), xsum.s())().get(timeout=WAIT) == 90
    assert (group(add.s(i, i) for i in range(10)) | xsum.s()).delay().get(timeout=WAIT) == 90
    both = add.s(1, 1) | group(add.s(i) for i in range(3)) | xsum.s() | add.s(100)
    assert both.delay().get(timeout=WAIT) == 109
    failing = chord([add.s(1, 1), guide.fails.s("x")], xsum.s().on_error(guide.on_chord_error.s())).delay()
    with pytest.raises(Exception, match="x"):
        failing.get(timeout=WAIT)
    assert guide.app.AsyncResult(f"chord-error-{failing.id}").get(timeout=WAIT)


def test_map_starmap_and_chunks(guide: Any):
    assert guide.xsum.map([list(range(10)), list(range(100))]).delay().get(timeout=WAIT) == [45, 4950]
    assert guide.add.starmap(zip(range(10), range(10), strict=True)).delay().get(timeout=WAIT) == list(
        range(0, 20, 2)
    )
    res = guide.add.chunks(zip(range(100), range(100), strict=True), 10)()
    assert [len(one) for one in res.get(timeout=WAIT)] == [10] * 10
    parts = guide.add.chunks(zip(range(10), range(10), strict=True), 5).group()
    assert parts.apply_async(queue="urgent").get(timeout=WAIT) == [[0, 2, 4, 6, 8], [10, 12, 14, 16, 18]]


def test_a_task_is_replaced_by_a_workflow(guide: Any):
    assert guide.pages.delay(4).get(timeout=WAIT) == 12
    with allow_join_result():
        assert (guide.pages.s(3) | guide.add.s(1)).delay().get(timeout=WAIT) == 7


def test_the_graph_of_what_was_sent(guide: Any):
    result = guide.add.apply_async((1, 1), link=[guide.add.s(2), guide.add.s(3)])
    wait_until(
        lambda: result.children and len(result.children) == 2 and all(one.ready() for one in result.children)
    )
    assert len(result.graph) == 3
    assert sorted(value for _, value in result.collect()) == [2, 4, 5]


# -- signals --------------------------------------------------------------------------------------------------


def test_signals_on_both_sides(guide: Any):
    published: list[Any] = []

    def before(sender: Any = None, headers: Any = None, body: Any = None, **kwargs: Any) -> None:
        published.append(("before", sender))

    def after(sender: Any = None, headers: Any = None, body: Any = None, **kwargs: Any) -> None:
        published.append(("after", sender, (headers or {})["id"]))

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after, sender="guide.add")
    try:
        result = guide.add.delay(40, 2)
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after, sender="guide.add")
    assert published == [("before", "guide.add"), ("after", "guide.add", result.id)]
    assert result.get(timeout=WAIT) == 42
    with pytest.raises(KeyError):
        guide.fails.delay("heard").get(timeout=WAIT)
    heard = guide.list_heard.delay().get(timeout=WAIT)
    assert heard[0] == "begin"
    assert {"prerun guide.add [40, 2]", "success 42", "failure guide.fails KeyError('heard')"} <= set(heard)


# -- routing --------------------------------------------------------------------------------------------------


def test_tasks_go_where_they_are_routed(guide: Any):
    assert guide.import_feed.delay().get(timeout=WAIT) == "feeds"
    assert guide.thumbnail.delay().get(timeout=WAIT) == "pictures"
    assert guide.import_feed.apply_async(queue="urgent").get(timeout=WAIT) == "urgent"
    assert guide.whoami.delay().get(timeout=WAIT)["queue"] == "celery"


def test_a_call_goes_by_its_exchange_and_routing_key(guide: Any):
    video = guide.whoami.apply_async(exchange="media", routing_key="media.video")
    assert video.get(timeout=WAIT)["queue"] == "videos"
    picture = guide.whoami.s().set(exchange=guide.media, routing_key="media.image").delay()
    assert picture.get(timeout=WAIT)["queue"] == "pictures"
    sent = guide.app.send_task("guide.whoami", exchange="feeds", routing_key="feed.import.now")
    assert sent.get(timeout=WAIT)["queue"] == "feeds"
    calls = group(guide.whoami.s().set(exchange="feeds", routing_key="feed") for _ in range(3)).delay()
    assert [info["queue"] for info in calls.get(timeout=WAIT)] == ["feeds"] * 3
    with pytest.raises(QueueNotFound, match=r"'feeds' by 'feed\.#'"):
        guide.whoami.apply_async(exchange="feeds", routing_key="food")


# -- control --------------------------------------------------------------------------------------------------


def test_a_task_is_revoked(guide: Any):
    result = guide.add.apply_async((1, 1), countdown=600)
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=WAIT)
    many = group(guide.add.s(n, n) for n in range(3)).apply_async(countdown=600)
    many.revoke()
    wait_until(many.ready)
    assert {one.state for one in many} == {"REVOKED"}


def test_a_run_that_looks_can_be_aborted(guide: Any):
    result = guide.search.delay()
    wait_until(lambda: result.state == "SEARCHING")
    assert not result.is_aborted()
    result.abort()
    assert result.get(timeout=WAIT) == "aborted"
    assert guide.search.AsyncResult(result.id).successful()
