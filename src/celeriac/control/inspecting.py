"""`Inspect`: what Celery's `app.control.inspect()` asks workers, in Celery's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from celeriac import message, plugins
from celeriac.brokers.abilities import Foretells
from celeriac.control import asking, calls
from celeriac.notices import ABOUT_REVOKED, Answer, Ask

#: Seconds for which answers are awaited, unless the caller says otherwise.
TIMEOUT: Final = 1.0
#: Celery's questions that are not here, and what to do instead.
INSPECT_ELSEWHERE: Final[Mapping[str, str]] = {
    "clock": "there are no logical clocks: events bear the broker's time",
    "hello": "workers never talk to each other",
    "memdump": "use a profiler",
    "memsample": "use a profiler",
    "objgraph": "use a profiler",
}
#: What Celery says of a queue besides its name: there are no exchanges here, and no options of queues.
_NONE_OF_A_QUEUE: Final = (
    "alias", "binding_arguments", "consumer_arguments", "expires", "max_length", "max_length_bytes", "max_priority",
    "message_ttl", "no_declare", "queue_arguments",
)  # fmt: skip
#: Under this name `stats` counts the runs of processes that have ended, or that do not answer.
_ENDED: Final = "(of ended processes)"

#: So many delayed tasks of a queue are told of.
_MOST_DELAYED: Final = 100

Told = Mapping[str, Any]


class Inspect:
    """Questions to the workers. Each returns a dict by worker's name, or None where none has answered.

    Where a worker cannot tell, its value is `{"error": "..."}`, as with Celery.
    """

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
        self.destination = names_of(destination)
        self.timeout = TIMEOUT if timeout is None else timeout
        self.callback = callback
        self.limit = limit

    def conditions(self, about: str = "", items: Sequence[str] = ()) -> list[Answer]:
        """How each worker is, as `/status` of its health probes says it; and what it says about one of `notices`."""
        ask = Ask(destination=self.destination, about=about, items=tuple(items))
        self.app.openings.reach()
        return asking.ask(self.app.broker, ask, self.timeout, self.limit)

    # -- about the worker ---------------------------------------------------------------------------------

    def ping(self, destination: str | Sequence[str] | None = None) -> dict[str, Any] | None:
        """`{"celery@host": {"ok": "pong"}}`"""
        if destination is not None:
            return Inspect(self.app, destination, self.timeout, callback=self.callback).ping()
        return self._each(lambda told: {"ok": "pong"})

    def stats(self) -> dict[str, Any] | None:
        """Numbers of each worker. Memory, and the peak of its supervisor in `rusage`, in KiB."""
        return self._each(_stats, "counts")

    def active_queues(self) -> dict[str, Any] | None:
        """The queues that each takes from."""
        return self._each(lambda told: [_queue(name) for name in told["condition"]["queues"]])

    def conf(self, with_defaults: bool = False) -> dict[str, Any] | None:
        """The settings that are not defaults, or all. Passwords are masked."""
        return self._each(_of_app, "conf", ("defaults",) if with_defaults else ())

    def report(self) -> dict[str, Any] | None:
        """Versions, platform and settings, as a text: `{"ok": text}`."""
        return self._each(_report, "report")

    # -- about tasks --------------------------------------------------------------------------------------

    def registered(self, *taskinfoitems: str) -> dict[str, Any] | None:
        """The tasks that each knows, with the attributes that are asked for: `"name [rate_limit=10/s]"`.

        Of a module that no message has asked for yet only the names of its tasks are known.
        """
        return self._each(_of_app, "registered", taskinfoitems)

    registered_tasks = registered

    def active(self, safe: Any = None) -> dict[str, Any] | None:
        """What runs. Of a process that does not answer: ids and names, without arguments."""
        return self._each(_active, "tasks")

    def reserved(self, safe: Any = None) -> dict[str, Any] | None:
        """What each holds and has not begun: what waits behind a run, and will be given back if that lasts."""
        return self._each(_reserved, "tasks")

    def scheduled(self, safe: Any = None) -> dict[str, Any] | None:
        """What waits for its time in the queues of each: the next 100 of each queue, soonest first.

        It waits in the broker. So that each task is named once, a queue is told of under the first of its workers.
        Empty where the broker cannot tell.
        """
        told_of: set[str] = set()

        def delayed(told: Told) -> list[dict[str, Any]]:
            queues = [name for name in told["condition"]["queues"] if name not in told_of]
            told_of.update(queues)
            return [entry for queue in queues for entry in self._delayed(queue, told["condition"]["worker"])]

        return self._each(delayed)

    def _delayed(self, queue: str, worker: str) -> list[dict[str, Any]]:
        broker = self.app.broker
        if not isinstance(broker, Foretells):
            return []
        accept = self.app.conf.accept_content
        found = [
            calls.scheduled(due_at, data, queue, accept)
            for due_at, data in broker.delayed(queue, _MOST_DELAYED)
        ]
        for one in found:
            one["request"]["hostname"] = worker
        return found

    def query_task(self, *ids: str | Sequence[str]) -> dict[str, Any] | None:
        """Of these tasks those that a worker holds: `{id: ["active" or "reserved", info]}`."""
        wanted = [task_id for one in ids for task_id in ([one] if isinstance(one, str) else one)]

        def told_of(told: Told) -> dict[str, Any]:
            held = {info["id"]: ["reserved", info] for info in _reserved(told)}
            held |= {info["id"]: ["active", info] for info in _active(told)}
            return {task_id: held[task_id] for task_id in wanted if task_id in held}

        return self._each(told_of, "tasks", wanted)

    def revoked(self) -> dict[str, Any] | None:
        """The ids of revoked tasks: what is remembered for the queues of each, of tasks that waited in no queue; and
        the last of those that waited, as far as the worker was told since it runs. For `worker_revoke_expires`.
        """
        known: dict[str, list[str]] = {}

        def remembered(told: Told) -> list[str]:
            for queue in told["condition"]["queues"]:
                if queue not in known:
                    known[queue] = [message.id_of(one.key) for one in self.app.broker.revoked(queue)]
            ended = told.get("figures", {}).get(ABOUT_REVOKED, ())
            ids = [task_id for queue in told["condition"]["queues"] for task_id in known[queue]]
            return [*dict.fromkeys([*ids, *map(message.id_of, ended)])]

        return self._each(remembered, ABOUT_REVOKED)

    def _each(
        self, told: Callable[[Told], Any], about: str = "", items: Sequence[str] = ()
    ) -> dict[str, Any] | None:
        answers = {answer.worker: told(answer.body) for answer in self.conditions(about, items)}
        if self.callback is not None:
            for worker, answer in answers.items():
                self.callback({worker: answer})
        return answers or None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(refusal("app.control.inspect()", name, INSPECT_ELSEWHERE, dir(type(self))))


def names_of(destination: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The workers that are meant; None is all."""
    if destination is None:
        return None
    return (destination,) if isinstance(destination, str) else tuple(destination)


def refusal(owner: str, name: str, elsewhere: Mapping[str, str], known: Sequence[str]) -> str:
    """What is said to whoever wants what there is not."""
    if name in elsewhere:
        return f"{owner}.{name} is not part of this version: {elsewhere[name]}"
    public = [one for one in known if not one.startswith("_")]
    return f"{owner} has no {name!r}.{plugins.nearest(name, public)}"


def _replies(told: Told) -> Mapping[int, Any]:
    """What its processes have replied; nothing where they are of an earlier version."""
    replies: Mapping[int, Any] = told.get("replies", {})
    return replies


def _of_app(told: Told) -> Any:
    for reply in _replies(told).values():
        return reply
    return {"error": "the process that has the application did not answer"}


def _report(told: Told) -> dict[str, Any]:
    text = _of_app(told)
    return {"ok": text} if isinstance(text, str) else text


def _active(told: Told) -> list[dict[str, Any]]:
    return [_at(told, info) for child in told["condition"]["children"] for info in _active_in(child, told)]


def _active_in(child: Mapping[str, Any], told: Told) -> Sequence[dict[str, Any]]:
    reply = _replies(told).get(child["number"])
    if reply is not None:
        return list(reply["active"])
    return [
        {"id": run["id"], "name": run["name"], "args": None, "kwargs": None, "type": run["name"], "time_start": None,
         "acknowledged": None, "delivery_info": {}, "worker_pid": child["pid"]}
        for run in child["runs"]
    ]  # fmt: skip


def _reserved(told: Told) -> list[dict[str, Any]]:
    return [_at(told, info) for reply in _replies(told).values() for info in reply["reserved"]]


def _at(told: Told, info: Mapping[str, Any]) -> dict[str, Any]:
    return {**info, "hostname": told["condition"]["worker"]}


def _queue(name: str) -> dict[str, Any]:
    exchange = {
        "name": name, "type": "direct", "arguments": None, "durable": True, "passive": False, "auto_delete": False,
        "delivery_mode": None, "no_declare": False,
    }  # fmt: skip
    return {
        **dict.fromkeys(_NONE_OF_A_QUEUE), "name": name, "routing_key": name, "exchange": exchange, "bindings": [],
        "durable": True, "exclusive": False, "auto_delete": False, "no_ack": False,
    }  # fmt: skip


def _stats(told: Told) -> dict[str, Any]:
    condition, figures = told["condition"], told.get("figures", {})
    children, replies = condition["children"], _replies(told).values()
    total: dict[str, int] = {}
    for reply in replies:
        for name, number in reply["counts"].items():
            total[name] = total.get(name, 0) + number
    if (others := condition["done"] - sum(total.values())) > 0:
        total[_ENDED] = others
    return {
        "total": total,
        "pid": condition["pid"],
        "uptime": condition["uptime"],
        "pool": {
            "implementation": condition["pool"],
            "max-concurrency": condition["processes"] * condition["slots"],
            "processes": [child["pid"] for child in children],
            "max-tasks-per-child": figures.get("max_tasks"),
            "timeouts": figures.get("timeouts"),
        },
        "broker": _broker(condition["broker"]),
        "prefetch_count": sum(reply["ahead"] for reply in replies),
        "rusage": figures.get("rusage"),
        "memory": sum(child["memory"] for child in children),
        "version": condition["version"],
    }


def _broker(condition: Mapping[str, Any] | None) -> dict[str, str]:
    """What its broker is, and where."""
    transport, _, where = condition["place"].partition(" ") if condition is not None else ("", "", "")
    return {"transport": transport, "hostname": where}
