"""What code that was written for Celery sees of its tasks, with a real worker behind it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import processes

from celeriac import states
from celeriac.exceptions import Reject, TaskRevokedError
from celeriac.utils.serialization import UnpickleableExceptionWrapper

HERE = Path(__file__).parent
WAIT = 30.0


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The application, with a worker of two children that takes what this module sends."""
    folder = tmp_path_factory.mktemp("shop")
    environ = processes.bare_environ(SHOP_BROKER=f"sqlite:///{folder}/shop.sqlite", PYTHONPATH=str(HERE))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SHOP_BROKER", environ["SHOP_BROKER"])
        patched.syspath_prepend(str(HERE))
        import shop

        log_path = folder / "log"
        with log_path.open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "celeriac", "-A", "shop", "worker", "-c", "2", "-l", "INFO"],
                cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            wait_until(lambda: worker.poll() is not None or " ready." in log_path.read_text(), log_path)
            assert worker.poll() is None, log_path.read_text()
            yield shop
        finally:
            worker.terminate()
            worker.wait(WAIT)
            shop.app.close()


@pytest.fixture(autouse=True)
def _current(shop: Any) -> None:  # pyright: ignore[reportUnusedFunction]
    shop.app.set_current()


def wait_until(is_so: Callable[[], bool], log: Path | None = None) -> None:
    until = time.monotonic() + WAIT
    while not is_so():
        assert time.monotonic() < until, "not in time" if log is None else log.read_text()
        time.sleep(0.02)


def is_idle(app: Any) -> bool:
    stats = app.broker.stats("celery")
    return bool((stats.ready, stats.delayed, stats.running) == (0, 0, 0))


def test_a_call_returns_its_value(shop: Any):
    result = shop.add.delay(1, 2, z=3)
    assert result.get(timeout=WAIT) == 6
    assert (result.status, result.ready(), result.successful(), result.failed()) == (
        "SUCCESS",
        True,
        True,
        False,
    )


def test_wrong_arguments_are_refused_by_the_caller_or_fail_in_the_worker(shop: Any):
    for send in (shop.add, shop.add.delay):
        with pytest.raises(TypeError):
            send(5)
        with pytest.raises(TypeError):
            send(5, 5, wrong=5)
    result = shop.add_unchecked.delay(5)
    with pytest.raises(TypeError):
        result.get(timeout=WAIT)
    assert result.status == "FAILURE"


def test_a_task_sent_by_name_keeps_its_result_as_the_task_says(shop: Any):
    kept, quiet = (shop.app.send_task(task.name, (1, 2)) for task in (shop.add, shop.add_quietly))
    assert kept.get(timeout=WAIT) == 3
    wait_until(lambda: is_idle(shop.app))
    assert shop.app.backend.get_task_meta(kept.id)["status"] == states.SUCCESS
    assert shop.app.backend.get_task_meta(quiet.id)["status"] == states.PENDING
    assert quiet.ignored is True


def test_an_extended_result_tells_of_the_call(shop: Any):
    result = shop.add.delay(1, 2)
    result.get(timeout=WAIT)
    meta = result.backend.get_task_meta(result.id)
    assert (meta["name"], meta["args"], meta["kwargs"], meta["retries"]) == ("shop.add", [1, 2], {}, 0)


def test_a_task_that_refuses_its_message_for_good_has_failed(shop: Any):
    result = shop.refuse.delay()
    with pytest.raises(Reject, match="not mine"):
        result.get(timeout=WAIT)
    assert (result.status, result.failed(), result.successful()) == ("FAILURE", True, False)
    wait_until(lambda: shop.app.broker.stats("celery").dead == 1)


def test_a_task_that_puts_its_message_back_sees_it_again(shop: Any):
    result = shop.refuse_once.delay()
    assert result.get(timeout=WAIT) == "second time"
    assert result.status == "SUCCESS"


def test_an_exception_that_cannot_be_made_again_says_what_it_was(shop: Any):
    result = shop.sell_out.delay("shoes", 3)
    with pytest.raises(UnpickleableExceptionWrapper) as caught:
        result.get(timeout=WAIT)
    assert isinstance(caught.value, shop.OutOfStock)
    assert "OutOfStock" in str(caught.value) and "shoes" in str(caught.value)
    assert (caught.value.exc_cls_name, caught.value.exc_args) == ("OutOfStock", ("shoes",))
    assert result.status == "FAILURE"


def test_expired_tasks_are_revoked(shop: Any):
    result = shop.add.apply_async((1, 1), expires=-1)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=WAIT)
    assert (result.status, result.ready(), result.failed()) == ("REVOKED", True, False)


def test_a_retry_may_give_arguments_in_another_way(shop: Any):
    first = shop.again_by_place.apply_async(kwargs={"x": 1, "y": 2, "label": "kept"})
    second = shop.again_by_name.apply_async(args=(1, 2))
    assert first.get(timeout=WAIT) == [2, 3, "kept"]
    assert second.get(timeout=WAIT) == [11, 2]


def test_a_retry_keeps_headers_stamps_and_priority(shop: Any):
    result = shop.about_second_run.apply_async(
        headers={"tenant": "a"}, priority=7, stamped_headers=["by"], by="me"
    )
    assert result.get(timeout=WAIT) == {"headers": {"tenant": "a"}, "stamps": {"by": "me"}, "priority": 7}


def test_a_task_sent_by_a_task_has_its_ids_and_not_its_headers(shop: Any):
    parent = shop.asks_another.apply_async(headers={"tenant": "a"}, stamped_headers=["by"], by="me")
    child = shop.app.AsyncResult(parent.get(timeout=WAIT)).get(timeout=WAIT)
    assert (child["parent_id"], child["root_id"]) == (parent.id, parent.id)
    assert (child["headers"], child["stamps"]) == (None, {})
    assert [one.id for one in parent.children] == [child["id"]]


@pytest.mark.parametrize(("asked", "kept"), [(False, True), (True, False)])
def test_whether_a_result_is_kept_survives_a_retry(shop: Any, asked: bool, kept: bool):
    result = shop.twice_quietly.apply_async(ignore_result=asked)
    if kept:
        assert result.get(timeout=WAIT) == 1
    else:
        wait_until(lambda: is_idle(shop.app))
        assert result.backend.get_task_meta(result.id)["status"] == states.PENDING


def test_a_class_may_be_a_task(shop: Any):
    assert shop.app.tasks["reliable"].delay().get(timeout=WAIT) == 1


def test_a_task_sees_its_limits(shop: Any):
    assert shop.about_limited.delay().get(timeout=WAIT) == [60, 45]
    assert shop.about_limited.apply_async(time_limit=10, soft_time_limit=5).get(timeout=WAIT) == [10, 5]
    told = shop.about.delay().get(timeout=WAIT)
    assert (told["time_limit"], told["soft_time_limit"]) == (None, None)


def test_limits_that_contradict_each_other_are_refused(shop: Any):
    with pytest.raises(ValueError, match="soft_time_limit must be less than or equal to time_limit"):
        shop.impossible_limits.apply_async()


def test_properties_of_the_message_reach_the_task(shop: Any):
    assert shop.about.apply_async(app_id="1234").get(timeout=WAIT)["properties"]["app_id"] == "1234"


@pytest.mark.parametrize("group_id", ["0192f0c0-0000-7000-8000-000000000001", "of my own"])
def test_a_task_knows_its_group(shop: Any, group_id: str):
    assert shop.about.apply_async(group_id=group_id, group_index=0).get(timeout=WAIT)["group"] == group_id


@pytest.mark.parametrize("times", [0, 1, 3])
def test_a_replaced_task_counts_its_replacements(shop: Any, times: int):
    result = shop.replaced_times.delay(times)
    assert result.get(timeout=WAIT) == list(range(times + 1))
    assert result.status == "SUCCESS"


def test_a_chain_may_replace_a_step_of_a_chain(shop: Any):
    result = (shop.replaced_with_chain.s(1) | shop.add.s(100)).apply_async()
    assert result.get(timeout=WAIT) == 112
    assert result.parent.get(timeout=WAIT) == 12
