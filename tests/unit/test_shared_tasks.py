"""`shared_task`, as libraries and Django's applications use it."""

from __future__ import annotations

import threading
from typing import Any
from unittest import mock

import pytest

from celeriac import Celeriac, chain, shared_task
from celeriac.exceptions import ImproperlyConfigured, UnknownOption


@shared_task
def early(x: int) -> int:
    """Declared before any application is made."""
    return x + 1


def test_a_task_declared_first_is_one_of_every_application_made_later() -> None:
    for name in ("a", "b"):
        with Celeriac(name, broker=f"memory://early-{name}") as app:
            assert early.name == "tests.unit.test_shared_tasks.early"
            assert app.tasks[early.name](1) == 2
            early.delay(1)
            assert app.broker.stats("celery").ready == 1


def test_settings_that_come_later_hold() -> None:
    with Celeriac("proj", broker="memory://shared-later") as app:
        assert early.ignore_result is True
        app.config_from_object({"task_ignore_result": False, "task_acks_late": False})
        assert (early.ignore_result, early.acks_late) == (False, False)


def test_a_task_declared_later_is_one_too_and_threads_see_it() -> None:
    with Celeriac("proj", broker="memory://shared-thread") as app:

        @shared_task(name="late", bind=True, ignore_result=False)
        def late(self: Any, x: int) -> str:
            return f"{self.name} {x}"

        thread = threading.Thread(target=late.delay, args=(1,))
        thread.start()
        thread.join()
        assert "late" in app.tasks and app.broker.stats("celery").ready == 1
        assert late(2) == "late 2"
        assert late.apply((3,)).get() == "late 3"
        assert chain(early.s(1), early.s()).apply().get() == 3


def test_its_attributes_are_those_of_the_current_applications_task() -> None:
    with Celeriac("proj", broker="memory://shared-set") as app:
        early.max_retries = 9
        assert app.tasks[early.name].max_retries == 9
        with mock.patch.object(early, "delay") as delay:
            early.delay(1)
        delay.assert_called_once_with(1)
        early.delay(1)
        assert app.broker.stats("celery").ready == 1


def test_a_misspelt_option_is_an_error_where_there_is_an_application() -> None:
    with (
        Celeriac("proj", broker="memory://shared-typo"),
        pytest.raises(UnknownOption, match="Did you mean 'max_retries'"),
    ):

        @shared_task(max_retires=3)
        def one() -> None: ...


def test_without_an_application_it_is_a_function_and_says_what_is_missing() -> None:
    assert early(1) == 2
    with pytest.raises(ImproperlyConfigured, match="there is no application yet"):
        early.delay(1)
