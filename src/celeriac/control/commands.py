"""`Control` and `Inspect`: remote control under Celery's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from celeriac import plugins
from celeriac.control import asking, revoking
from celeriac.notices import Answer, Ask, Notice

#: Seconds for which answers are awaited, unless the caller says otherwise.
TIMEOUT: Final = 1.0
#: Celery's commands that are not here, and what to do instead.
COMMANDS_ELSEWHERE: Final[Mapping[str, str]] = {
    "add_consumer": "start a worker with -Q, or `celeriac resume QUEUE`",
    "autoscale": "start the worker with --autoscale=10,3",
    "broadcast": "there are no commands of your own in this version",
    "cancel_consumer": "`celeriac pause QUEUE` holds for all workers",
    "disable_events": "events are not published in this version",
    "election": "workers never talk to each other",
    "enable_events": "events are not published in this version",
    "heartbeat": "ask with `app.control.ping()`",
    "pool_grow": "start another worker, or this one with another -c",
    "pool_restart": "send the worker SIGHUP",
    "pool_shrink": "send the worker SIGTERM, and start it with another -c",
    "rate_limit": "rate limits are not enforced in this version",
    "shutdown": "send the worker SIGTERM",
    "time_limit": "set it on the task, or with apply_async(time_limit=...)",
}
INSPECT_ELSEWHERE: Final[Mapping[str, str]] = {
    "clock": "there are no logical clocks",
    "conf": "`celeriac config` shows the settings",
    "hello": "workers never talk to each other",
    "memdump": "use a profiler",
    "memsample": "use a profiler",
    "objgraph": "use a profiler",
    "query_task": "ask for the result's state; `active()` has what runs",
    "registered": "not available yet",
    "report": "`celeriac report` shows versions and settings",
    "reserved": "not available yet; `celeriac queues` counts what waits",
    "revoked": "not available yet",
    "scheduled": "what waits for its time is in the broker: `celeriac queues` counts it",
}


class Control:
    """What can be done with tasks and workers from afar: `app.control`. Safe to use from several threads."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: str | Sequence[str] | None = None,
        terminate: bool = False,
        signal: str | int | None = "SIGTERM",
        **options: Any,
    ) -> list[dict[str, Any]] | None:
        """Let tasks begin no run any more: one id, or many. The broker keeps that; workers need not be up.

        What waits or is delayed ends at once, as REVOKED. What runs goes on, and is not retried; with `terminate`,
        `celeriac.exceptions.Terminated` is raised in it, and after `worker_revoke_grace` seconds it is ended by
        force; with the signal SIGKILL at once. `destination` limits which workers are told of that. With
        `reply=True` it waits for their answers, `timeout` seconds at most, and returns them.

        Raises:
            BrokerUnavailable, BrokerRefused: some may be revoked; the same call again is safe.
            ResultStoreUnavailable: all are revoked, and whoever waits hears of it later.
        """
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        words = revoking.revoke(
            self.app,
            ids,
            terminate=terminate,
            signal=revoking.signal_of(signal) if terminate else "",
            destination=_names(destination),
        )
        return self._say(words, options)

    def terminate(
        self,
        task_id: str | Iterable[str],
        destination: str | Sequence[str] | None = None,
        signal: str | int | None = "SIGTERM",
        **options: Any,
    ) -> list[dict[str, Any]] | None:
        """`revoke` with `terminate`."""
        return self.revoke(task_id, destination, True, signal, **options)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        destination: str | Sequence[str] | None = None,
        terminate: bool = False,
        signal: str | int | None = "SIGTERM",
        **options: Any,
    ) -> list[dict[str, Any]] | None:
        """Revoke the tasks that bear one of these stamps: `{"batch": "2024-05"}`, or with a list of values.

        What waits, is delayed or runs is revoked as by `revoke`; this looks through what waits, at a cost that grows
        with it. What comes later with such a stamp, as the next steps of a chain, ends as REVOKED when a worker takes
        it, for `worker_revoke_expires` seconds. Values are compared as texts.

        Raises: as `revoke`; ImproperlyConfigured: no stamp is named.
        """
        answers = self._say([revoking.ban(self.app, headers)], dict(options))
        self.revoke(revoking.banned_ids(self.app, headers), destination, terminate, signal, **options)
        return answers

    def ping(
        self,
        destination: str | Sequence[str] | None = None,
        timeout: float | None = TIMEOUT,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Which workers answer: `[{"celery@host": {"ok": "pong"}}]`."""
        inspect = Inspect(self.app, destination, timeout, **options)
        return [{worker: answer} for worker, answer in (inspect.ping() or {}).items()]

    def inspect(
        self,
        destination: str | Sequence[str] | None = None,
        timeout: float | None = TIMEOUT,
        callback: Any = None,
        connection: Any = None,
        app: Any = None,
        limit: int | None = None,
        **options: Any,
    ) -> Inspect:
        """Questions to the workers; see `Inspect`."""
        return Inspect(app or self.app, destination, timeout, callback=callback, limit=limit, **options)

    def purge(self, connection: Any = None) -> int:
        """Delete what waits in the queues that a worker without `-Q` takes from. Returns how many messages."""
        declared = [str(getattr(queue, "name", queue)) for queue in self.app.conf.task_queues or ()]
        names = declared or [self.app.conf.task_default_queue]
        return sum(self.app.broker.purge(name) for name in dict.fromkeys(names))

    discard_all = purge

    def _say(self, words: Sequence[Notice], options: dict[str, Any]) -> list[dict[str, Any]] | None:
        """Tell the workers; wait for their answers, if that is wished."""
        reply, timeout = options.pop("reply", False), options.pop("timeout", None)
        limit = options.pop("limit", None)
        options.pop("connection", None)
        if options:
            raise TypeError(f"remote control has no option {', '.join(map(repr, sorted(options)))}")
        answers: dict[str, Any] = {}
        for word in words:
            if reply:
                heard = asking.ask(self.app.broker, word, TIMEOUT if timeout is None else timeout, limit)
                answers |= {answer.worker: answer.body for answer in heard}
            else:
                asking.tell(self.app.broker, word)
        return [{worker: body} for worker, body in answers.items()] if reply else None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(_refusal("app.control", name, COMMANDS_ELSEWHERE, dir(type(self))))


class Inspect:
    """Questions to the workers. Each returns a dict by worker's name, or None where none has answered."""

    def __init__(
        self,
        app: Any,
        destination: str | Sequence[str] | None = None,
        timeout: float | None = TIMEOUT,
        *,
        callback: Any = None,
        limit: int | None = None,
    ) -> None:
        """`timeout`: seconds to wait; `limit`: so many answers are enough; `callback` is called with each."""
        self.app = app
        self.destination = _names(destination)
        self.timeout = TIMEOUT if timeout is None else timeout
        self.callback = callback
        self.limit = limit

    def conditions(self) -> list[Answer]:
        """How each worker is, as `/status` of its health probes says it."""
        return asking.ask(self.app.broker, Ask(destination=self.destination), self.timeout, self.limit)

    def ping(self, destination: str | Sequence[str] | None = None) -> dict[str, Any] | None:
        """`{"celery@host": {"ok": "pong"}}`"""
        if destination is not None:
            return Inspect(self.app, destination, self.timeout, callback=self.callback).ping()
        return self._each(_pong)

    def active(self, safe: Any = None) -> dict[str, Any] | None:
        """What runs: ids, names, since how many seconds, in which process."""
        return self._each(_active)

    def active_queues(self) -> dict[str, Any] | None:
        """The queues that each takes from."""
        return self._each(_queues)

    def stats(self) -> dict[str, Any] | None:
        """Numbers of each worker."""
        return self._each(_stats)

    def _each(self, told: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any] | None:
        answers = {answer.worker: told(answer.body["condition"]) for answer in self.conditions()}
        if self.callback is not None:
            for worker, answer in answers.items():
                self.callback({worker: answer})
        return answers or None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(_refusal("app.control.inspect()", name, INSPECT_ELSEWHERE, dir(type(self))))


def _names(destination: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if destination is None:
        return None
    return (destination,) if isinstance(destination, str) else tuple(destination)


def _refusal(owner: str, name: str, elsewhere: Mapping[str, str], known: Sequence[str]) -> str:
    if name in elsewhere:
        return f"{owner}.{name} is not part of this version: {elsewhere[name]}"
    public = [one for one in known if not one.startswith("_")]
    return f"{owner} has no {name!r}.{plugins.nearest(name, public)}"


def _pong(condition: Mapping[str, Any]) -> dict[str, str]:
    return {"ok": "pong"}


def _queues(condition: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"name": name} for name in condition["queues"]]


def _active(condition: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "id": run["id"], "name": run["name"], "seconds": run["seconds"], "worker_pid": child["pid"],
            "hostname": condition["worker"],
        }
        for child in condition["children"] for run in child["runs"]
    ]  # fmt: skip


def _stats(condition: Mapping[str, Any]) -> dict[str, Any]:
    children = condition["children"]
    return {
        "total": condition["done"],
        "pid": condition["pid"],
        "uptime": condition["uptime"],
        "pool": {
            "implementation": condition["pool"],
            "max-concurrency": condition["processes"] * condition["slots"],
            "processes": [child["pid"] for child in children],
        },
        "memory": sum(child["memory"] for child in children),
        "version": condition["version"],
    }
