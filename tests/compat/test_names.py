"""The names that Celery's users import are where they look for them, with `celeriac` for `celery`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest

from celeriac import Celeriac
from celeriac.app.rarely import ELSEWHERE, TASKS_ELSEWHERE

NAMES = {
    "celeriac": "Celery Celeriac Signature Task chain current_app current_task group maybe_signature "
    "shared_task signature uuid",
    "celeriac._state": "current_app current_task get_current_app get_current_task",
    "celeriac.app": "Celery Celeriac",
    "celeriac.app.base": "Celery Celeriac",
    "celeriac.app.control": "Control Inspect",
    "celeriac.app.task": "Context Task",
    "celeriac.canvas": "Signature StampingVisitor chain chord chunks group maybe_signature "
    "signature subtask xmap xstarmap",
    "celeriac.exceptions": "Ignore ImproperlyConfigured MaxRetriesExceededError NotRegistered OperationalError "
    "Reject Retry SoftTimeLimitExceeded TaskRevokedError TimeLimitExceeded TimeoutError WorkerLostError",
    "celeriac.result": "AsyncResult EagerResult GroupResult ResultSet allow_join_result result_from_tuple",
    "celeriac.states": "FAILURE PENDING RECEIVED RETRY REVOKED STARTED SUCCESS READY_STATES UNREADY_STATES",
    "celeriac.signals": "after_task_publish before_task_publish celeryd_init task_failure task_postrun task_prerun "
    "task_retry task_success worker_process_init worker_ready",
    "celeriac.contrib.abortable": "ABORTED AbortableAsyncResult AbortableTask",
    "celeriac.contrib.testing.app": "DEFAULT_TEST_CONFIG TestApp Trap set_trap setup_default_app",
    "celeriac.contrib.testing.tasks": "ping",
    "celeriac.contrib.testing.worker": "TestWorkController setup_app_for_worker start_worker",
    "celeriac.utils": "uuid",
    "celeriac.utils.dispatch": "Signal",
    "celeriac.utils.log": "get_logger get_task_logger",
    "celeriac.utils.serialization": "UnpickleableExceptionWrapper",
    "celeriac.worker.state": "active_requests all_total_count requests reserved_requests revoked revoked_stamps "
    "successful_requests total_count",
}


@pytest.mark.parametrize("module", NAMES)
def test_the_names_are_there(module: str):
    found = importlib.import_module(module)
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []


@pytest.fixture
def app() -> Iterator[Celeriac]:
    with Celeriac("proj", broker="memory://names", set_as_current=False) as app:
        yield app


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_what_an_application_does_not_have_says_what_to_use(app: Celeriac, name: str):
    with pytest.raises(AttributeError, match=f"no '{name}': ") as caught:
        getattr(app, name)
    assert len(str(caught.value)) > 50
    assert not hasattr(app, name)


@pytest.mark.parametrize("name", sorted(TASKS_ELSEWHERE))
def test_what_a_task_does_not_have_says_what_to_use(app: Celeriac, name: str):
    task = app.task(name="t")(print)
    with pytest.raises(AttributeError, match=f"no '{name}': "):
        getattr(task, name)


def test_a_misspelt_attribute_names_the_nearest(app: Celeriac):
    with pytest.raises(AttributeError, match="Did you mean 'send_task'"):
        app.send_tusk  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match="'Task' object has no attribute 'dely'"):
        app.task(name="t")(print).dely  # type: ignore[attr-defined]  # noqa: B018


def test_the_signals_of_an_application_are_sent_when_it_is_finalized(app: Celeriac):
    seen: list[object] = []

    @app.on_after_configure.connect
    def configured(sender: Celeriac, source: object, **named: object) -> None:
        seen.append((sender, source))

    @app.on_after_finalize.connect
    def finalized(sender: Celeriac, **named: object) -> None:
        seen.append(sender)

    app.finalize()
    app.finalize()
    assert seen == [(app, app.conf), app]


@pytest.mark.filterwarnings("ignore:.*beat_schedule")
def test_a_periodic_task_is_an_entry_of_the_schedule(app: Celeriac):
    task = app.task(name="remind")(print)
    assert app.add_periodic_task(10.0, task.s(1, sep="-"), name="often", expires=5) == "often"
    key = app.add_periodic_task(30.0, task.s(2))
    assert app.conf.beat_schedule["often"] == {
        "task": "remind", "schedule": 10.0, "args": (1,), "kwargs": {"sep": "-"}, "options": {"expires": 5},
    }  # fmt: skip
    assert app.conf.beat_schedule[key]["args"] == (2,)


def test_an_application_answers_as_celerys_does(app: Celeriac):
    other = Celeriac("proj", broker="memory://names", set_as_current=False)
    assert app.oid == app.oid != other.oid  # type: ignore[attr-defined]
    assert app.thread_oid.startswith(app.oid)  # type: ignore[attr-defined]
    assert app.uses_utc_timezone()  # type: ignore[attr-defined]
    assert app.either("task_default_queue", None, "x") == "x"  # type: ignore[attr-defined]
    assert app.either("task_default_queue", None) == "celery"  # type: ignore[attr-defined]
