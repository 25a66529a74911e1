"""Applications for tests: one that keeps everything in memory, and what is current while a test lasts."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from celeriac import context
from celeriac.app import Celeriac
from celeriac.contrib.testing import tasks as tasks

#: What `TestApp` sets unless told otherwise. Return values are kept, as with Celery: tests look at them.
DEFAULT_TEST_CONFIG: Final[Mapping[str, Any]] = {"task_ignore_result": False, "timezone": "UTC"}


def TestApp(
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    enable_logging: bool = False,
    set_as_current: bool = False,
    broker: str | None = None,
    backend: str | None = None,
    **parameters: Any,
) -> Celeriac:
    """An application for a test, with a broker of its own in memory unless `broker` or `config` names another.

    Raises: UnknownOption, ImproperlyConfigured: as `Celeriac`.
    """
    settings = {"broker_url": f"memory://test-{os.urandom(6).hex()}", **DEFAULT_TEST_CONFIG, **(config or {})}
    if broker is not None:
        settings["broker_url"] = broker
    if backend is not None:
        settings["result_backend"] = backend
    return Celeriac(name or "celeriac.tests", set_as_current=set_as_current, changes=settings, **parameters)


TestApp.__test__ = False  # type: ignore[attr-defined]  # to pytest it looks like a test


class Trap:
    """Stands where an application would be current, and raises when it is used."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"Test depends on current_app (it asked for {name!r})")


@contextmanager
def set_trap(app: Celeriac) -> Generator[None]:
    """Inside the block, whoever uses the current application instead of one that he was given fails."""
    with context.APPS.kept():
        trap = Trap()
        context.APPS.set_default(trap)
        context.APP.set(trap)
        yield


@contextmanager
def setup_default_app(app: Celeriac, use_trap: bool = False) -> Generator[None]:
    """Behind the block the applications are as before, and `app` is closed unless it was current before."""
    before = context.APP.get() or context.APPS.default
    with context.APPS.kept():
        if use_trap:
            with set_trap(app):
                yield
        else:
            yield
        if app is not before:
            app.close()
