"""Tasks that look from time to time whether somebody has asked them to stop, under Celery's names.

`result.revoke(terminate=True)` ends a run that does not look.
"""

from __future__ import annotations

from typing import Any, Final

from celeriac.async_result import AsyncResult, EagerResult
from celeriac.task import Task

ABORTED: Final = "ABORTED"


class AbortableAsyncResult(AsyncResult[Any]):
    """The result of an abortable task."""

    __slots__ = ()

    def is_aborted(self) -> bool:
        """Whether the run was asked to stop, and has stored nothing since. Raises: ResultStoreUnavailable."""
        return self.state == ABORTED

    def abort(self) -> None:
        """Ask the run to stop. Whether it does is its own affair. Raises: ResultStoreUnavailable."""
        app: Any = self.app
        app.backend.store_result(self.id, None, ABORTED)


class AbortableTask(Task[..., Any]):
    """A base for tasks that call `self.is_aborted()` from time to time, and return when it is true."""

    abstract = True

    def apply_async(self, *args: Any, **options: Any) -> AsyncResult[Any]:
        """As `Task.apply_async`; its result can be aborted, unless it ran here."""
        sent = super().apply_async(*args, **options)
        return sent if isinstance(sent, EagerResult) else self.AsyncResult(sent.id, ignored=sent.ignored)

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AbortableAsyncResult:
        """The result of an earlier call, which can be aborted."""
        return AbortableAsyncResult(task_id, task_name=self.name, app=self.app, **kwargs)

    def is_aborted(self, task_id: str | None = None) -> bool:
        """Whether this run was asked to stop. Asks the result store each time. Raises: ResultStoreUnavailable."""
        task_id = task_id or self.request.id
        return task_id is not None and self.AsyncResult(task_id).is_aborted()
