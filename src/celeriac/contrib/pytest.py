"""Fixtures for pytest, with Celery's names: in `conftest.py`, write `pytest_plugins = ("celeriac.contrib.pytest",)`.

No entry point loads it by itself: whoever does not ask for it pays nothing, and Celery's own plugin may be there too.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import pytest

from celeriac import plugins
from celeriac.app import Celeriac
from celeriac.contrib.testing.app import TestApp, setup_default_app
from celeriac.contrib.testing.inline import InlineWorker, inline_worker
from celeriac.contrib.testing.worker import TestWorkController, start_worker


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    for name in ("celery", "celeriac"):
        config.addinivalue_line("markers", f"{name}(**settings): settings of the test's application.")


@contextmanager
def _app(use_trap: bool, parameters: Mapping[str, Any], config: Mapping[str, Any]) -> Generator[Celeriac]:
    app = TestApp(set_as_current=False, config=config, **parameters)
    with setup_default_app(app, use_trap=use_trap):
        yield app


@contextmanager
def _worker(
    app: Celeriac, includes: Sequence[str], pool: str, parameters: Mapping[str, Any]
) -> Generator[TestWorkController | None]:
    if os.environ.get("NO_WORKER"):
        yield None
        return
    for module in includes:
        plugins.load(module)
    with start_worker(app, pool=pool, **parameters) as worker:
        yield worker


def _same_as(name: str, scope: Literal["session", "function"] = "session") -> Any:
    """A fixture under a second name. What tests override may be overridden under either."""

    @pytest.fixture(scope=scope)
    def same(request: pytest.FixtureRequest) -> Any:
        return request.getfixturevalue(name)

    return same


@pytest.fixture(scope="session")
def celeriac_config() -> Mapping[str, Any]:
    """Override it: settings of the applications."""
    return {}


celery_config = _same_as("celeriac_config")


@pytest.fixture(scope="session")
def celeriac_parameters() -> Mapping[str, Any]:
    """Override it: arguments of `Celeriac`."""
    return {}


celery_parameters = _same_as("celeriac_parameters")


@pytest.fixture(scope="session")
def celeriac_worker_parameters() -> Mapping[str, Any]:
    """Override it: arguments of `start_worker`, such as `queues`."""
    return {}


celery_worker_parameters = _same_as("celeriac_worker_parameters")


@pytest.fixture(scope="session")
def celeriac_worker_pool() -> str:
    """Override it: `solo` or `threads`."""
    return "solo"


celery_worker_pool = _same_as("celeriac_worker_pool")


@pytest.fixture(scope="session")
def celeriac_includes() -> Sequence[str]:
    """Override it: modules to import before a worker starts."""
    return ()


celery_includes = _same_as("celeriac_includes")


@pytest.fixture(scope="session")
def celeriac_class_tasks() -> Sequence[Any]:
    """Override it: tasks, as instances or classes, to register before a worker starts."""
    return ()


celery_class_tasks = _same_as("celeriac_class_tasks")


@pytest.fixture(scope="session")
def celeriac_enable_logging() -> bool:
    """Celery's; the lines of a worker go to the logger `celeriac.worker` in any case, and pytest catches them."""
    return False


celery_enable_logging = _same_as("celeriac_enable_logging")


@pytest.fixture(scope="session")
def use_celeriac_app_trap() -> bool:
    """Override it: True lets tests fail that use the current application."""
    return False


use_celery_app_trap = _same_as("use_celeriac_app_trap")


@pytest.fixture
def celery_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    use_celery_app_trap: bool,
) -> Generator[Celeriac]:
    """An application for the test, all of it in memory; `@pytest.mark.celery(...)` has settings for it."""
    node: pytest.Item = request.node  # pyright: ignore[reportUnknownMemberType]
    marks = (node.get_closest_marker(name) for name in ("celery", "celeriac"))
    config = {**celery_config, **{key: value for mark in marks if mark for key, value in mark.kwargs.items()}}
    with _app(use_celery_app_trap, celery_parameters, config) as app:
        yield app


@pytest.fixture(scope="session")
def celery_session_app(
    celery_config: Mapping[str, Any], celery_parameters: Mapping[str, Any], use_celery_app_trap: bool
) -> Generator[Celeriac]:
    """An application for all tests."""
    with _app(use_celery_app_trap, celery_parameters, celery_config) as app:
        app.set_default()
        app.set_current()
        yield app


@pytest.fixture
def celery_worker(
    celery_app: Celeriac,
    celery_includes: Sequence[str],
    celery_class_tasks: Sequence[Any],
    celery_worker_pool: str,
    celery_worker_parameters: Mapping[str, Any],
) -> Generator[TestWorkController | None]:
    """A worker in a thread, for the test. Tasks that are declared later are known to it."""
    for task in celery_class_tasks:
        celery_app.register_task(task)
    with _worker(celery_app, celery_includes, celery_worker_pool, celery_worker_parameters) as worker:
        yield worker


@pytest.fixture(scope="session")
def celery_session_worker(
    celery_session_app: Celeriac,
    celery_includes: Sequence[str],
    celery_class_tasks: Sequence[Any],
    celery_worker_pool: str,
    celery_worker_parameters: Mapping[str, Any],
) -> Generator[TestWorkController | None]:
    """A worker in a thread, for all tests."""
    for task in celery_class_tasks:
        celery_session_app.register_task(task)
    with _worker(celery_session_app, celery_includes, celery_worker_pool, celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def depends_on_current_app(celery_app: Celeriac) -> None:
    """Makes the test's application the current one."""
    celery_app.set_current()


@pytest.fixture
def celeriac_inline_worker(celery_app: Celeriac) -> Generator[InlineWorker]:
    """A worker in the test's hands: `drain()` runs what is due, `advance(seconds)` lets time pass."""
    with inline_worker(celery_app) as worker:
        yield worker


celeriac_app = _same_as("celery_app", "function")

celeriac_worker = _same_as("celery_worker", "function")

celeriac_session_app = _same_as("celery_session_app")

celeriac_session_worker = _same_as("celery_session_worker")
