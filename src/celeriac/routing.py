"""Which queue a call goes to: a pure function of the task's name, what the caller said, and the settings.

What the caller or the task says wins over `task_routes`, which wins over `task_default_queue`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from celeriac import plugins
from celeriac.exceptions import ImproperlyConfigured, QueueNotFound
from celeriac.setting_kinds import is_mapping

Route = Mapping[str, Any]
_Rule = Callable[[str, Any, Any, Any, Any], "Route | None"]
_NO_ROUTE: Final[Route] = {}


def route(task_name: str, queue: str | None, conf: Any) -> str:
    """The queue of a call of that task, where `queue` is what the caller said.

    Raises:
        QueueNotFound: `task_queues` does not name it, and `task_create_missing_queues` is off.
        ImproperlyConfigured: `task_routes` cannot be read.
    """
    return Router(conf).queue_for(task_name, queue)


class Router:
    """`task_routes` read once. Ask it again after the settings have changed: make a new one."""

    def __init__(self, conf: Any) -> None:
        self._rules = _read(conf.task_routes)
        self._default: str = conf.task_default_queue
        self._declared = (
            None if conf.task_create_missing_queues else _names(conf.task_queues) | {self._default}
        )
        #: Whether a route depends on the task's name alone.
        self.is_constant = all(getattr(rule, "is_constant", False) for rule in self._rules)
        self._known: dict[str, Route] = {}

    def options_for(
        self, name: str, args: Any = None, kwargs: Any = None, options: Any = None, task: Any = None
    ) -> Route:
        """The options that a route gives this call, `queue` among them; empty where no route speaks of it."""
        if name in self._known:
            return self._known[name]
        found = _NO_ROUTE
        for rule in self._rules:
            if (answer := rule(name, args or (), kwargs or {}, options or {}, task)) is not None:
                found = answer
                break
        if self.is_constant:
            self._known[name] = found
        return found

    def queue_for(self, name: str, queue: str | None = None) -> str:
        """The queue of a call of that task, where `queue` is what the caller said."""
        if queue is None:
            queue = self.options_for(name).get("queue")
        return self.checked(queue or self._default, name)

    def checked(self, queue: str, name: str) -> str:
        """The queue, if it may be used."""
        if self._declared is not None and queue not in self._declared:
            raise QueueNotFound(
                f"task {name!r} cannot be sent: the queue {queue!r} is not in task_queues, and "
                f"task_create_missing_queues is off.{plugins.nearest(queue, self._declared)}"
            )
        return queue

    @property
    def default(self) -> str:
        """The queue of tasks that no route names."""
        return self._default


def _read(routes: Any) -> list[_Rule]:
    """The rules of `task_routes`, in the order in which they are asked."""
    if routes is None:
        return []
    if isinstance(routes, Mapping) or callable(routes) or isinstance(routes, str):
        return [_rule(routes)]
    rules = list(cast("Iterable[Any]", routes))
    if rules and all(isinstance(rule, tuple) and len(cast("Any", rule)) == 2 for rule in rules):
        return [_table(cast("list[tuple[Any, Any]]", rules))]
    return [_rule(rule) for rule in rules]


def _rule(rule: Any) -> _Rule:
    if isinstance(rule, str):
        rule = plugins.load(rule if ":" in rule else ":".join(rule.rsplit(".", 1)))
    if is_mapping(rule):
        return _table(list(rule.items()))
    if isinstance(rule, list | tuple):
        return _table(cast("list[tuple[Any, Any]]", list(cast("Any", rule))))
    ask = getattr(rule, "route_for_task", rule)
    if not callable(ask):
        raise ImproperlyConfigured(f"'task_routes' holds {rule!r}, which is neither a dict nor a function")

    def call(name: str, args: Any, kwargs: Any, options: Any, task: Any) -> Route | None:
        answer = ask(name, args, kwargs, options, task=task)
        return None if not answer else _target(name, answer)

    return call


def _table(rows: list[tuple[Any, Any]]) -> _Rule:
    """A rule that looks names up: an exact one first, then patterns in their order."""
    if not all(len(row) == 2 for row in rows):
        raise ImproperlyConfigured(
            f"'task_routes' holds {rows!r}, which should be pairs of a name and a queue"
        )
    exact = {key: _target(key, to) for key, to in rows if isinstance(key, str) and not _is_glob(key)}
    patterns: list[tuple[Any, Route]] = [
        (
            key if isinstance(key, re.Pattern) else re.compile(plugins.load("fnmatch:translate")(key)),
            _target(key, to),
        )
        for key, to in rows
        if not isinstance(key, str) or _is_glob(key)
    ]

    def look_up(name: str, args: Any, kwargs: Any, options: Any, task: Any) -> Route | None:
        if name in exact:
            return exact[name]
        return next((to for pattern, to in patterns if pattern.match(name)), None)

    look_up.is_constant = True  # type: ignore[attr-defined]
    return look_up


def _is_glob(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def _target(name: Any, target: Any) -> Route:
    if isinstance(target, str):
        return {"queue": target}
    if isinstance(target, Mapping):
        options = dict(cast("Mapping[str, Any]", target))
        queue = options.get("queue")
        if queue is not None and not isinstance(queue, str):
            options["queue"] = queue.name
        return options
    raise ImproperlyConfigured(
        f"'task_routes' sends {name!r} to {target!r}: a route is the name of a queue, or a dict such as "
        "{'queue': 'video'}"
    )


def _names(queues: Any) -> set[str]:
    """The names of the queues that `task_queues` declares, in any of the forms it may have."""
    if queues is None:
        return set()
    if is_mapping(queues):
        return {str(key) for key in queues}
    return {queue if isinstance(queue, str) else queue.name for queue in queues}
