"""What a task's class has beside its function: hooks that a worker calls, attributes that follow settings, and what a
run says of itself on the way."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from celeriac import plugins
from celeriac.context import Request
from celeriac.stored import Stored

HOOKS: Final = ("before_start", "on_success", "on_failure", "on_retry", "after_return")


class FromSettings:
    """A task attribute that follows a setting, until the task or its class sets it."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def __get__(self, task: Any, owner: type) -> Any:
        return None if task is None else getattr(task.app.conf, self.setting)


def follows_settings(task: Any, name: str) -> bool:
    """Whether that attribute is as the settings say: neither the task nor its class has set it."""
    if name in task.__dict__:
        return name in task.__dict__.get("_fixed", ())
    return isinstance(inspect.getattr_static(task, name), FromSettings)


class Hooks:
    """The hooks, doing nothing."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called before every run."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called after a run that returned."""

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called after a run that raised."""

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called after a run that will be repeated."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Called after every run."""


class Bound:
    """What every part of a Task may use of it."""

    name: str

    @property
    def app(self) -> Any:
        """The application."""
        raise NotImplementedError

    @property
    def request(self) -> Request:
        """What is known of the call that runs."""
        raise NotImplementedError


class Reporting(Bound):
    """What a run says of itself before it ends."""

    store_eager_result: Any

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Raises: AttributeError: there is none; of Celery's the text says what to use instead."""
            return plugins.load("celeriac.app.rarely:missing_of_task")(self, name)

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        """Store a state of the task's own, such as PROGRESS; not after a lost lease. Raises: ResultStoreUnavailable."""
        request = self.request
        if request.is_eager and not self.store_eager_result:
            return
        task_id = task_id or request.id
        if task_id is None:
            raise RuntimeError("update_state needs a task_id outside a run")
        backend = self.app.backend
        request.note(backend.written(task_id, Stored(state or "PROGRESS", meta)), backend)

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the run is: state PROGRESS, with `{"current": ..., "total": ..., "message": ...}` as `info`.

        As often as you like: it does not wait, and one record a second is stored, the latest always; none that is
        older than the end of the run. A run that tells its progress keeps its result, `ignore_result` or not.
        Outside a run it does nothing.

        Raises: TypeError: numbers and text are told otherwise.
        """
        request = self.request
        if request.message is None or (request.is_eager and not self.store_eager_result):
            return
        if request.progress is None:
            request.progress = plugins.own("celeriac.progress:Progress")(self, request)
        request.progress.tell(current, total, message)
