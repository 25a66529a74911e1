"""The application: its constructor, settings, tasks and current-ness."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac import Celeriac, Celery, context, current_app, shared_task
from celeriac.exceptions import (
    AlwaysEagerIgnored,
    ImproperlyConfigured,
    NotRegistered,
    ResultNotStored,
    SettingHasNoEffect,
    UnknownOption,
    UnknownScheme,
    UnknownSetting,
)


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    with Celeriac("proj", broker=f"memory://{request.node.name}") as app:
        yield app


def test_settings_may_be_given_by_name() -> None:
    with Celery("x", broker="memory://x", backend="memory://y", include=["a"], task_acks_late=False) as app:
        assert (app.conf.broker_url, app.conf.result_backend) == ("memory://x", "memory://y")
        assert (app.conf.include, app.conf.task_acks_late) == (("a",), False)
        assert app.backend.place != app.broker.place


@pytest.mark.parametrize(
    ("name", "near"), [("brokr", "broker"), ("task_acks_lat", "task_acks_late"), ("backnd", "backend")]
)
def test_a_wrong_argument_is_an_error(name: str, near: str) -> None:
    with pytest.raises(UnknownOption, match=f"Did you mean '{near}'"):
        Celeriac("x", **{name: "memory://"})  # type: ignore[arg-type]


def test_arguments_of_celery_without_effect_are_accepted_with_a_warning() -> None:
    with pytest.warns(SettingHasNoEffect, match="loader"):
        Celeriac("x", loader="default", set_as_current=False)


def test_a_wrong_scheme_is_an_error_that_names_the_nearest() -> None:
    app = Celeriac("x", broker="rediss2://host", set_as_current=False)
    with pytest.raises(UnknownScheme, match="Did you mean 'rediss'"):
        _ = app.broker


def test_results_are_kept_at_the_broker_by_default(app: Celeriac) -> None:
    assert app.backend.place == app.broker.place


def test_a_new_broker_url_is_followed(app: Celeriac) -> None:
    first = app.broker
    app.conf.broker_url = "memory://elsewhere"
    assert app.broker is not first
    assert app.broker is app.broker


def test_settings_come_from_an_object_with_a_namespace(app: Celeriac) -> None:
    class Settings:
        CELERY_TASK_DEFAULT_QUEUE = "mine"
        OTHER = 1

    app.config_from_object(Settings, namespace="CELERY")
    assert app.conf.task_default_queue == "mine"
    app.config_from_object("no.such.module", silent=True)
    with pytest.raises(ImportError):
        app.config_from_object("no.such.module")


def test_settings_come_from_a_module_named_by_a_variable(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImproperlyConfigured, match="'MY_SETTINGS' is not set"):
        app.config_from_envvar("MY_SETTINGS")
    assert app.config_from_envvar("MY_SETTINGS", silent=True) is False


def test_a_misspelt_setting_is_an_error(app: Celeriac) -> None:
    with pytest.raises(UnknownSetting, match="task_acks_late"):
        app.conf.task_acks_lat = True


def test_an_unknown_task_is_an_error_that_names_the_nearest(app: Celeriac) -> None:
    @app.task(name="proj.add")
    def add() -> None: ...

    with pytest.raises(NotRegistered, match=r"Did you mean 'proj\.add'"):
        _ = app.tasks["proj.ad"]
    app.tasks.unregister("proj.add")
    assert "proj.add" not in app.tasks


def test_a_task_can_be_sent_by_name(app: Celeriac) -> None:
    result = app.send_task("elsewhere.add", (1, 2), queue="other", task_id="my own id")
    assert (result.id, result.task_name, result.ignored) == ("my own id", "elsewhere.add", None)
    assert app.broker.stats("other").ready == 1


def test_send_task_says_that_it_ignores_eagerness(app: Celeriac) -> None:
    app.conf.task_always_eager = True
    with pytest.warns(AlwaysEagerIgnored):
        app.send_task("elsewhere.add")


def test_the_last_application_is_current_unless_it_says_no(app: Celeriac) -> None:
    other = Celeriac("other", broker="memory://o", set_as_current=False)
    assert current_app == app
    other.set_current()
    assert current_app == other
    other.close()


def test_the_default_application_is_one_that_was_chosen() -> None:
    one = Celeriac("one", broker="memory://1", set_as_current=False)
    one.set_default()
    two = Celeriac("two", broker="memory://2")
    assert context.APPS.default is one
    one.close()
    two.close()


def test_task_modules_are_imported(app: Celeriac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "loaded_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tasks.py").write_text(
        "from celeriac import shared_task\n@shared_task\ndef found():\n    pass\n"
    )
    (tmp_path / "loaded_mod.py").write_text(
        "from celeriac import current_app\n@current_app.task\ndef one():\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    app.autodiscover_tasks(["loaded_pkg"])
    app.conf.include = ["loaded_mod"]
    app.load_tasks()
    assert {"loaded_pkg.tasks.found", "loaded_mod.one"} <= set(app.tasks)


def test_a_package_without_tasks_is_fine_but_a_broken_one_is_not(
    app: Celeriac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("without_pkg", None), ("broken_pkg", "import no_such_thing\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        if text:
            (tmp_path / name / "tasks.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    app.autodiscover_tasks(["without_pkg"], force=True)
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        app.autodiscover_tasks(["broken_pkg"], force=True)


def test_annotations_set_attributes(app: Celeriac) -> None:
    @app.task(name="noted")
    def noted() -> None: ...

    app.conf.task_annotations = {"*": {"max_retries": 9}, "noted": {"time_limit": 5}}
    app.finalize()
    assert (noted.max_retries, noted.time_limit) == (9, 5)


def test_a_disabled_result_store_is_told(app: Celeriac) -> None:
    app.conf.result_backend = "disabled://"

    @app.task(ignore_result=False)
    def one() -> None: ...

    result = one.delay()
    with pytest.raises(ResultNotStored, match="disabled://"):
        result.get(timeout=1)


def test_naive_times_are_of_the_applications_zone(app: Celeriac) -> None:
    app.conf.timezone = "Europe/Rome"
    assert str(app.now().tzinfo) == "Europe/Rome"
    call = app.producer.call("x", (), {}, {"eta": "2030-07-01T12:00:00"})
    assert call.due_at == 1_909_130_400.0


def test_a_shared_task_without_an_application_says_what_is_missing() -> None:
    context.APP.set(None)
    context.APPS.set_default(None)

    @shared_task(name="lonely")
    def lonely(x: int) -> int:
        return x

    assert lonely(3) == 3
    with pytest.raises(ImproperlyConfigured, match="there is no application yet"):
        lonely.delay(3)


def test_importing_celeriac_is_cheap() -> None:
    import subprocess

    code = (
        "import sys; before = set(sys.modules); from celeriac import Celeriac, Task, group;"
        "new = set(sys.modules) - before;"
        "banned = {'asyncio', 'multiprocessing', 'concurrent.futures', 'sqlite3', 'http', 'importlib.metadata',"
        " 'argparse'}; print(len(new), sorted(banned & new))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, banned = done.stdout.split(maxsplit=1)
    assert banned.strip() == "[]"
    assert int(count) <= 150
