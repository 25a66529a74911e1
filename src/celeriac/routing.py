"""Which queue a call goes to: a pure function of the task's name, what the caller said, and the settings.

What the caller or the task says wins over `task_routes`, which wins over `task_default_queue`. A queue that is named is
the one, whatever it is bound to; an exchange, or a routing key without a queue, is every queue that is bound so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

from celeriac import plugins, queues, send_options
from celeriac.exceptions import ImproperlyConfigured, QueueNotFound
from celeriac.setting_kinds import TRANSIENT, is_mapping

Route = Mapping[str, Any]
_Rule = Callable[[str, Any, Any, Any, Any], "Route | None"]
_NO_ROUTE: Final[Route] = {}
#: The options that say where a message goes. The type of an exchange is what `task_queues` says of it.
DESTINATION: Final = frozenset({"queue", "exchange", "routing_key", "exchange_type"})


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
        self._bindings = queues.Bindings(conf)
        #: How many messages may wait in a queue, of those that say so.
        self.most = queues.lengths(conf.task_queues)
        self._declared = None if conf.task_create_missing_queues else {*self._bindings.names, self._default}
        self._modes = queues.modes(conf.task_queues)
        self._usual_mode: int = conf.task_default_delivery_mode
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

    def queues_for(self, name: str, own: Mapping[str, Any], found: Route) -> tuple[str, ...]:
        """The queues of a call: `own` is what its caller or the task says, `found` what a route says.

        Raises:
            QueueNotFound: as `checked`; or nothing is bound to the exchange by that key.
        """
        named = own.get("queue")
        if named is None and not (own.keys() & DESTINATION):
            named, own = found.get("queue"), found
        if named is not None:
            return (self.checked(send_options.queue_name(named), name),)
        exchange, key = own.get("exchange"), own.get("routing_key")
        if exchange is key is None:
            return (self.checked(self._default, name),)
        usual_exchange, usual_key = self._bindings.way_of(found.get("queue") or self._default)
        exchange = usual_exchange if exchange is None else send_options.queue_name(exchange)
        key = usual_key if key is None else key
        bound = self._bindings.queues_of(exchange, key)
        if not bound:
            raise QueueNotFound(
                f"task {name!r} cannot be sent: no queue gets what goes to the exchange {exchange!r} with the "
                f"routing key {key!r}: {self._bindings.explain(exchange)}. Name a queue, or bind one in task_queues"
            )
        return tuple(self.checked(queue, name) for queue in bound)

    def are_transient(self, queues: Sequence[str]) -> bool:
        """Whether what goes to these queues is transient where neither call, task nor route says: to all of them."""
        return all(self._modes.get(queue, self._usual_mode) == TRANSIENT for queue in queues)

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
    if isinstance(rule, type) and hasattr(rule, "route_for_task"):
        rule = rule()
    is_router = hasattr(rule, "route_for_task")
    ask = getattr(rule, "route_for_task", rule)
    if not callable(ask):
        raise ImproperlyConfigured(f"'task_routes' holds {rule!r}, which is neither a dict nor a function")

    def call(name: str, args: Any, kwargs: Any, options: Any, task: Any) -> Route | None:
        answer = ask(name, args, kwargs) if is_router else ask(name, args, kwargs, options, task=task)
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
        if options.get("queue") is None:
            return options
        # A queue that is named is the one: what else Celery's routes say of the way there is not needed.
        rest = {option: value for option, value in options.items() if option not in DESTINATION}
        return {"queue": send_options.queue_name(options["queue"]), **rest}
    raise ImproperlyConfigured(
        f"'task_routes' sends {name!r} to {target!r}: a route is the name of a queue, or a dict such as "
        "{'queue': 'video'}"
    )


def declared_queues(conf: Any) -> list[str]:
    """The names of the queues that `task_queues` declares, in their order and each once."""
    return queues.declared(conf.task_queues)


def usual_queues(conf: Any) -> list[str]:
    """The queues that a worker without `-Q` takes from: the declared ones, else the default."""
    return declared_queues(conf) or [conf.task_default_queue]
