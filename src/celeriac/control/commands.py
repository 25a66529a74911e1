"""`Control`: remote control under Celery's names. What it asks is in `inspecting`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from celeriac.control import asking, revoking
from celeriac.control.inspecting import TIMEOUT, Inspect, names_of, refusal
from celeriac.notices import Notice, Shutdown
from celeriac.routing import usual_queues

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
    "time_limit": "set it on the task, or with apply_async(time_limit=...)",
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
        words, failure = revoking.revoke(
            self.app,
            ids,
            terminate=terminate,
            signal=revoking.signal_of(signal) if terminate else "",
            destination=names_of(destination),
        )
        answers = self._say(words, options)
        if failure is not None:
            raise failure
        return answers

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
        it, for `worker_revoke_expires` seconds. Values are compared as texts. A broker that is not `Searchable` cannot
        be looked through: there what waits ends when its turn comes, and what runs goes on, `terminate` or not.

        Raises: as `revoke`; ImproperlyConfigured: no stamp is named.
        """
        word, failure = revoking.ban(self.app, headers)
        answers = self._say([word], dict(options))
        self.revoke(revoking.banned_ids(self.app, headers), destination, terminate, signal, **options)
        if failure is not None:
            raise failure
        if answers is None:
            return None
        # Workers are told that there is a ban, and not which: Celery's words are found here.
        done = "revoked" if terminate else "flagged as revoked, but not terminated"
        return [
            {worker: {"ok": f"headers {dict(headers)} {done}"} for worker in answer} for answer in answers
        ]

    def ping(
        self,
        destination: str | Sequence[str] | None = None,
        timeout: float | None = TIMEOUT,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Which workers answer: `[{"celery@host": {"ok": "pong"}}]`."""
        inspect = Inspect(self.app, destination, timeout, **options)
        return [{worker: answer} for worker, answer in (inspect.ping() or {}).items()]

    def shutdown(
        self, destination: str | Sequence[str] | None = None, **options: Any
    ) -> list[dict[str, Any]] | None:
        """Stop workers in order, as SIGTERM does: all that listen, or those of `destination`.

        Raises: BrokerUnavailable, BrokerRefused
        """
        return self._say([Shutdown(destination=names_of(destination))], options)

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
        self.app.openings.reach()
        return sum(self.app.broker.purge(name) for name in usual_queues(self.app.conf))

    discard_all = purge

    def _say(self, words: Sequence[Notice], options: dict[str, Any]) -> list[dict[str, Any]] | None:
        """Tell the workers; wait for their answers, if that is wished."""
        reply, timeout = options.pop("reply", False), options.pop("timeout", None)
        limit = options.pop("limit", None)
        options.pop("connection", None)
        if options:
            raise TypeError(f"remote control has no option {', '.join(map(repr, sorted(options)))}")
        answers: dict[str, Any] = {}
        self.app.openings.reach()
        for word in words:
            if reply:
                heard = asking.ask(self.app.broker, word, TIMEOUT if timeout is None else timeout, limit)
                answers |= {answer.worker: answer.body for answer in heard}
            else:
                asking.tell(self.app.broker, word)
        return [{worker: body} for worker, body in answers.items()] if reply else None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(refusal("app.control", name, COMMANDS_ELSEWHERE, dir(type(self))))
