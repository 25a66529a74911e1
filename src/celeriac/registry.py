"""The tasks of one application, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from celeriac import plugins
from celeriac.exceptions import AlreadyRegistered, NotRegistered

#: Tasks that every application has; they are made when somebody asks for one (`workflow.builtins`).
BUILTINS: Final = ("celery.accumulate", "celery.map", "celery.starmap")


class TaskRegistry(dict[str, Any]):
    """Task by name. A name that is not there is an error that tells the nearest."""

    #: Makes a task that every application has; set by the application.
    make_builtin: Callable[[str], Any] | None = None

    def __missing__(self, name: str) -> Any:
        if name in BUILTINS and self.make_builtin is not None:
            return self.make_builtin(name)
        raise NotRegistered(
            f"no task is called {name!r} in this application.{plugins.nearest(name, self)} "
            "Is the module that declares it imported, and listed in `include` or `imports`?"
        )

    def register(self, task: Any) -> None:
        """Add a task. The same function again (a module that was loaded anew) replaces the earlier one.

        Raises:
            AlreadyRegistered: another function has that name.
        """
        kind: type[Any] = task.__class__
        if hasattr(kind, "_get_current_object"):
            task = task._get_current_object()  # a shared task
        earlier = self.get(task.name)
        if earlier is not None and earlier is not task and earlier.source != task.source:
            raise AlreadyRegistered(
                f"two tasks are called {task.name!r}: {earlier.source} and {task.source}. "
                "Give one of them another name with @app.task(name=...)."
            )
        self[task.name] = task

    def unregister(self, name: Any) -> None:
        """Take a task out, given as name or Task. Raises: NotRegistered."""
        name = getattr(name, "name", name)
        if name not in self:
            self.__missing__(name)
        del self[name]
