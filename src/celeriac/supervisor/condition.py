"""How a worker is: what its health probes are answered with, decided here as functions of values.

*Live* is a worker that need not be ended: its loop goes round (else nobody answers), and no process of it is stuck.
A child that runs something is busy, however long it takes. *Ready* is one that takes messages: its children
have come up, its broker answers, and it is not stopping.

Values only: no process, no clock, no socket.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

#: A child that runs nothing and does not come round for so long is called stuck; a little later
#: (`plan.LONGEST_SILENCE`) the supervisor replaces it.
STUCK_AFTER = 20.0
#: A broker that takes longer to answer may hold up everybody who asks it.
_PROMPT = 1.0


class RunCondition(msgspec.Struct, frozen=True):
    """One run: the task's id and name, and for how many seconds it has run."""

    id: str
    name: str
    seconds: float


class ChildCondition(msgspec.Struct, frozen=True, kw_only=True):
    """One child. `silence`: seconds in which it should have come round and has not; `memory` in KiB."""

    number: int
    pid: int | None = None
    state: str = "ready"
    standby: bool = False
    age: float = 0.0
    silence: float = 0.0
    killed: bool = False
    memory: int = 0
    done: int = 0
    runs: Sequence[RunCondition] = ()


class BrokerCondition(msgspec.Struct, frozen=True, kw_only=True):
    """The lease keeper's view of the broker, in seconds.

    `renewed`: since leases were renewed; `away`: since it failed; `asking`: since the call that it has not answered.
    """

    place: str
    lease: float
    renewed: float | None = None
    away: float | None = None
    asking: float | None = None

    @property
    def is_silent(self) -> bool:
        """Whether calls of the broker fail now, or last long."""
        return self.away is not None or (self.asking is not None and self.asking > _PROMPT)


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One worker at a moment. `came_up`: all its children have been up once. `broker` None: not known yet.

    `processes` children of `slots` slots each is what there should be; `uptime` in seconds, `pid` the supervisor's.
    `no_takes`: for how many seconds the broker has let no child take; `no_ends`: the broker or the result store.
    """

    worker: str
    came_up: bool = False
    stopping: bool = False
    broker: BrokerCondition | None = None
    children: Sequence[ChildCondition] = ()
    no_takes: float | None = None
    no_ends: float | None = None
    #: Tasks that have ended here, in this worker's life.
    done: int = 0
    queues: Sequence[str] = ()
    version: str = ""
    pool: str = ""
    processes: int = 0
    slots: int = 0
    pid: int = 0
    uptime: float = 0.0


def why_not_live(condition: Condition) -> str | None:
    """Which process is stuck; None: none is."""
    for child in condition.children:
        if child.silence >= STUCK_AFTER:
            seconds = f"for {child.silence:.0f} s"
            if child.killed:
                return f"child {child.number} was killed and has not ended {seconds}"
            if child.pid is None:
                return f"child {child.number} has not been forked {seconds}"
            return f"child {child.number} has not come round {seconds}"
    return None


def why_not_ready(condition: Condition) -> str | None:
    """What keeps the worker from taking messages; None: nothing does."""
    if condition.stopping:
        return "stopping"
    broker = condition.broker
    if broker is None:
        return "the application is being imported"
    if broker.away is not None:
        return f"broker away for {broker.away:.0f} s"
    if broker.renewed is None:
        return "the broker has not answered yet"
    if broker.renewed > broker.lease:
        return f"leases have not been renewed for {broker.renewed:.0f} s"
    if condition.no_takes is not None:
        return f"the broker has let no child take or settle for {condition.no_takes:.0f} s"
    if condition.no_ends is not None:
        return f"the result store has been away for {condition.no_ends:.0f} s, and what has run waits for it"
    if not condition.came_up:
        return "children are starting"
    if not any(child.state in ("ready", "leaving") and not child.standby for child in condition.children):
        return "no child is up"
    return None


class Status(msgspec.Struct, frozen=True):
    """The answer to `/status`. `not_live` and `not_ready` say why, and are null where it is."""

    not_live: str | None
    not_ready: str | None
    condition: Condition


def status(condition: Condition) -> Status:
    """The whole of it, with its verdicts."""
    return Status(why_not_live(condition), why_not_ready(condition), condition)


def answer(path: str, is_near: bool, condition: Condition) -> tuple[int, str]:
    """The HTTP status and the text for a path. `is_near`: who asks is on this machine, and may see tasks' names."""
    match path:
        case "/live":
            return _verdict("live", why_not_live(condition))
        case "/ready":
            return _verdict("ready", why_not_ready(condition))
        case "/status" if is_near:
            return 200, msgspec.json.encode(status(condition)).decode()
        case "/status":
            return 403, "only for those on the same machine"
        case _:
            return 404, "ask for /live, /ready or /status"


def _verdict(word: str, why_not: str | None) -> tuple[int, str]:
    return (200, word) if why_not is None else (503, f"not {word}: {why_not}")
