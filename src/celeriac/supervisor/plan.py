"""What a supervisor does next: decided here as a function of values, done in `crew`.

`decide` looks at the children, at what is wished and at the time, and answers with actions. Doing them
changes the children, so it is asked again until it has no more. `losses` says what a dead child's messages
are owed.

Two promises shape the rules for replacements. The replacement is up before the old child stops taking (no
gap); and no more runs at once than the concurrency says: where children have one slot each, a replacement
stands by until the one before it is done. Where they have many, it begins as the old one stops taking,
because waiting for the slowest of a hundred runs would be the longer gap.

Values only: no process, no clock, no socket.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Final

import msgspec

from celeriac import clock
from celeriac.board import RunSnapshot
from celeriac.brokers.contract import TERMINATED
from celeriac.wire import EXIT_FAILURE, EXIT_USAGE

#: A child that is told to stop and has nothing to run, or has said that it is done, may take so long to exit.
EXIT_TIMEOUT = 5.0
#: One that comes round, and so has ends of runs to settle, may take so long while the broker answers.
SETTLE_TIMEOUT = 60.0
#: A child that dies younger than this with nothing to blame it on counts as one that cannot start.
INFANCY = 5.0
#: A child that takes, runs nothing and does not come round for so long is of no use. A run may keep it busy for
#: ever: only limits end that.
LONGEST_SILENCE = 30.0
#: So many children in a row that die before any has ever been ready: the worker gives up.
FIRST_TRIES = 5


class State(IntEnum):
    """Where a child is in its life."""

    BOOTING = 0
    READY = 1
    #: Takes nothing any more: it was told to stop, or said that it retires. Runs may go on.
    LEAVING = 2
    #: Has said that it is done, or has closed its channel.
    STOPPED = 3


class Why(IntEnum):
    """Why the supervisor has killed a child: it decides what its messages are owed."""

    NOTHING = 0
    TIME_LIMIT = 1
    MEMORY = 2
    HUNG = 3
    SHUTDOWN = 4
    REVOKED = 5


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """One child as the plan sees it. Times are monotonic; `memory` in KiB.

    `begun` is False for a standby. `warned`: the runs that got their soft signal. `outdated`: an earlier
    application runs in it than the one that was loaded last. `due_at`: when its age is reached. `quiet_at`:
    since when it has been seen to have nothing to run, or in its state, while the broker answered. `heard_at`:
    when it was last known to come round.
    """

    number: int
    state: State = State.READY
    begun: bool = True
    started_at: float = 0.0
    quiet_at: float = 0.0
    heard_at: float = math.inf
    due_at: float | None = None
    outdated: bool = False
    killed: Why = Why.NOTHING
    memory: int = 0
    slots: int = 1
    runs: Sequence[RunSnapshot] = ()
    #: How many runs have ended in it.
    done: int = 0
    warned: frozenset[int] = frozenset()
    #: Whether it takes at a broker that the worker has left, and whether that broker is away: it cannot end there.
    astray: bool = False
    stranded: bool = False
    #: Since when the broker, or the result store, has kept it from taking; 0.0: it does not.
    away_since: float = 0.0
    store_away_since: float = 0.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds that children are kept in; None is no bound. Memory in KiB.

    `condemned`: by key of a task, when a run of it is to be ended because it was revoked (monotonic).
    """

    start_timeout: float = 60.0
    max_memory: int | None = None
    kill_above_memory: int | None = None
    condemned: Mapping[bytes, float] = {}


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What there should be. `can_fork`: there is a template.

    `spawn_at`: not before that time is a child started. `stop_at`: an orderly stop has begun, and at that
    time what still runs is given back.
    """

    processes: int = 1
    can_fork: bool = True
    spawn_at: float = 0.0
    stop_at: float | None = None


class Spawn(msgspec.Struct, frozen=True):
    """Start a child; a standby takes nothing before it is told to begin."""

    standby: bool = False


class Begin(msgspec.Struct, frozen=True):
    """Tell a standby child to take messages."""

    number: int


class Drain(msgspec.Struct, frozen=True):
    """Tell a child to stop in order."""

    number: int
    reason: str


class Warn(msgspec.Struct, frozen=True):
    """Send the soft signal for a run."""

    number: int
    run: RunSnapshot


class Kill(msgspec.Struct, frozen=True):
    """End a child now. `runs`: those that it is ended for."""

    number: int
    why: Why
    runs: tuple[RunSnapshot, ...] = ()


Action = Spawn | Begin | Drain | Warn | Kill


def decide(children: Sequence[Child], wishes: Wishes, limits: Limits, now: float) -> list[Action]:
    """What to do now. Asked again after that was done, it answers with nothing, until something happens."""
    living = [child for child in children if not child.killed]
    actions: list[Action] = []
    for child in living:
        actions += keep_limits(child, limits, wishes, now)
    condemned = {action.number for action in actions if isinstance(action, Kill)}
    rest = [child for child in living if child.number not in condemned]
    if wishes.stop_at is None:
        return actions + staff(rest, wishes, limits, now)
    return actions + [Drain(child.number, "shutdown") for child in rest if child.state < State.LEAVING]


def keep_limits(child: Child, limits: Limits, wishes: Wishes, now: float) -> list[Action]:
    """What one child's limits ask for: at most one kill, else soft signals."""
    overrun = tuple(run for run in child.runs if run.hard_at and run.hard_at <= now)
    if overrun:
        return [Kill(child.number, Why.TIME_LIMIT, overrun)]
    revoked = tuple(run for run in child.runs if limits.condemned.get(run.key, math.inf) + run.net <= now)
    if revoked:
        return [Kill(child.number, Why.REVOKED, revoked)]
    if wishes.stop_at is not None and wishes.stop_at <= now:
        return [Kill(child.number, Why.SHUTDOWN)]
    if limits.kill_above_memory is not None and child.memory > limits.kill_above_memory:
        return [Kill(child.number, Why.MEMORY)]
    if _hangs(child, limits, now):
        return [Kill(child.number, Why.HUNG)]
    return [
        Warn(child.number, run)
        for run in child.runs
        if run.soft_at and run.soft_at <= now and run.sequence not in child.warned
    ]


def _hangs(child: Child, limits: Limits, now: float) -> bool:
    if child.state is State.BOOTING:
        return now >= child.started_at + limits.start_timeout
    if child.state is State.READY:
        return not child.runs and now >= child.heard_at + LONGEST_SILENCE
    if child.state is State.LEAVING and not child.runs:
        return now >= child.heard_at + EXIT_TIMEOUT or now >= child.quiet_at + SETTLE_TIMEOUT
    return child.state is State.STOPPED and now >= child.quiet_at + EXIT_TIMEOUT


def held_up_since(children: Sequence[Child], since: Callable[[Child], float]) -> float | None:
    """Since when no child has been able to take; None: one is, or none tries. What is busy is no witness, and neither
    is what takes at a broker that the worker has left."""
    witnesses = [
        since(child)
        for child in children
        if not child.astray
        and (since(child) or (child.state is State.READY and child.begun and not child.runs))
    ]
    return max(witnesses) if witnesses and all(witnesses) else None


def staff(children: Sequence[Child], wishes: Wishes, limits: Limits, now: float) -> list[Action]:
    """Keep as many children taking as wished, and a replacement standing by for each that is to go."""
    standbys = sorted((child for child in children if is_standby(child)), key=_readiest)
    busy = [child for child in children if occupies(child)]
    staying = [child for child in busy if child.state < State.LEAVING]
    if len(staying) > wishes.processes:
        # Those with the least to finish go, and of equals the youngest.
        surplus = sorted(staying, key=lambda child: (-len(child.runs), child.started_at))[wishes.processes :]
        return [Drain(child.number, "fewer are wanted") for child in [*surplus, *standbys]]
    room = max(0, wishes.processes - len(busy))
    beginning, standing = standbys[:room], standbys[room:]
    actions: list[Action] = [Begin(child.number) for child in beginning]
    missing = room - len(beginning)
    # Of those that leave, so many are replaced when they are done.
    replaced = min(len(busy), wishes.processes) - len(staying)
    due = [(child, reason) for child in staying if (reason := why_due(child, limits, now))]
    ready = sum(child.state is State.READY for child in standing) - replaced
    actions += [Drain(child.number, reason) for child, reason in due[: max(0, ready)]]
    if wishes.can_fork and now >= wishes.spawn_at:
        actions += [Spawn()] * missing
        actions += [Spawn(standby=True)] * (replaced + len(due) - len(standing))
    surplus = standing[replaced + len(due) :]
    return actions + [Drain(child.number, "no longer needed") for child in surplus]


def lacks(children: Sequence[Child], wishes: Wishes, limits: Limits, now: float) -> bool:
    """Whether a child would be started now, if there were a template."""
    wishes = msgspec.structs.replace(wishes, can_fork=True)
    return any(isinstance(action, Spawn) for action in decide(children, wishes, limits, now))


def spares_template(children: Sequence[Child], wishes: Wishes, keepalive: float, now: float) -> bool:
    """Whether a template is nothing but a second copy: there is one child and to be one, which has long been at work.

    Several children share what their template has imported, and children to come shall share it too.
    """
    if wishes.processes != 1 or len(children) != 1:
        return False
    (child,) = children
    return takes(child) and not child.outdated and now >= child.started_at + keepalive


def is_standby(child: Child) -> bool:
    """Whether it waits to be told to begin."""
    return not child.begun and child.state < State.LEAVING


def occupies(child: Child) -> bool:
    """Whether it counts against the number of processes: it takes, or its one slot may still be busy."""
    if child.state is State.LEAVING:
        # What waits for a broker that is away is in nobody's way. A run of it may go on all the same: its second thread
        # may be the one that waits, with the end of an earlier run.
        waits = child.stranded and (child.away_since or child.store_away_since or not child.runs)
        return child.begun and child.slots == 1 and not waits
    return child.begun and child.state < State.LEAVING


def takes(child: Child) -> bool:
    """Whether it takes messages."""
    return child.begun and child.state is State.READY and not child.killed


def why_due(child: Child, limits: Limits, now: float) -> str | None:
    """Why a child that takes is to be replaced; None: it is not."""
    if child.state is not State.READY:
        return None
    if child.outdated:
        return "the application was loaded anew"
    if child.astray:
        return "the worker takes from another broker"
    if limits.max_memory is not None and child.memory > limits.max_memory:
        return f"memory: {child.memory} KiB, more than {limits.max_memory}"
    if child.due_at is not None and child.due_at <= now:
        return f"age: {now - child.started_at:.0f} seconds"
    return None


def _readiest(child: Child) -> tuple[bool, float]:
    return child.state is not State.READY, child.started_at


def next_look(children: Sequence[Child], wishes: Wishes, now: float, longest: float) -> float:
    """Seconds until something is due that we know of now, at most `longest`."""
    times = [at for child in children for run in child.runs for at in _limits_ahead(child, run)]
    times += [at for at in (wishes.stop_at, wishes.spawn_at) if at is not None and at > now]
    return max(0.0, min([longest, *(at - now for at in times)]))


def _limits_ahead(child: Child, run: RunSnapshot) -> list[float]:
    soft_at = run.soft_at if run.sequence not in child.warned else 0.0
    return [at for at in (soft_at, run.hard_at) if at and not child.killed]


# ---- revocations

#: So long after its time (seconds) a run is still looked for: it may have been on its way to the board.
_LINGER: Final = 2.0
#: Of so many are ends remembered at once; the first ones are forgotten.
MOST_CONDEMNED: Final = 5_000


def condemn(
    condemned: Mapping[bytes, float], keys: Sequence[bytes], at: float, now: float
) -> dict[bytes, float]:
    """What is condemned, with these keys as well: runs of them end at that time, or earlier where that was said."""
    known = {key: when for key, when in condemned.items() if now < when + _LINGER}
    known |= {key: min(at, known.get(key, at)) for key in keys}
    surplus = max(0, len(known) - MOST_CONDEMNED)
    return {key: when for place, (key, when) in enumerate(known.items()) if place >= surplus}


# ---- deaths


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """How a child ended. `status` as of `waitpid`, None where nobody has it."""

    status: int | None
    killed: Why = Why.NOTHING
    state: State = State.READY
    was_ready: bool = True
    age: float = 0.0
    runs: Sequence[RunSnapshot] = ()
    overrun: Sequence[RunSnapshot] = ()


class Losses(msgspec.Struct, frozen=True):
    """What a dead child's messages are owed: keys of those that crashed with it, and verdicts by key."""

    crashed: tuple[bytes, ...] = ()
    verdicts: Mapping[bytes, str] = {}


def losses(death: Death) -> Losses:
    """Whose run a death is counted against.

    A hard time limit, or a revocation, is that run's verdict and nobody else's harm; what the supervisor ended for
    reasons of its own is nobody's; every other death is a crash of all runs that had started.
    """
    if death.killed is Why.TIME_LIMIT:
        return Losses((), {run.key: f"time_limit:{run.limit:g}" for run in death.overrun})
    if death.killed is Why.REVOKED:
        return Losses((), {run.key: TERMINATED for run in death.overrun})
    if death.killed in (Why.SHUTDOWN, Why.HUNG):
        return Losses()
    return Losses(tuple(run.key for run in death.runs))


def cause(death: Death) -> str:
    """For people: `signal 9 (SIGKILL)`, `exit code 3`."""
    if death.killed:
        return _CAUSES[death.killed]
    if death.status is None:
        return "unknown: the process that forked it did not tell"
    number = death.status & 0x7F
    if not number:
        return f"exit code {death.status >> 8}"
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


_CAUSES: Final[Mapping[Why, str]] = {
    Why.TIME_LIMIT: "signal 9 (SIGKILL): a task overran its hard time limit",
    Why.MEMORY: "signal 9 (SIGKILL): more memory than worker_kill_above_memory",
    Why.REVOKED: "signal 9 (SIGKILL): a task was revoked with terminate, and did not end",
    Why.HUNG: "signal 9 (SIGKILL): it did not start, come round or end in time",
    Why.SHUTDOWN: "signal 9 (SIGKILL): the worker's shutdown timeout was over",
}


def is_expected(death: Death) -> bool:
    """Whether the child ended as it was told to, or as it had announced."""
    if death.killed:
        return death.killed is Why.SHUTDOWN
    return death.state >= State.LEAVING and not death.runs and death.status in (0, None)


class Streak(msgspec.Struct, frozen=True):
    """The children that have died in a row without getting anywhere."""

    failures: int = 0
    any_ready: bool = False

    def after(self, death: Death) -> Streak:
        """The streak with one more death. A run to blame, or a life longer than infancy, ends it."""
        any_ready = self.any_ready or death.was_ready
        fails = not is_expected(death) and not death.runs and not death.overrun and death.age < INFANCY
        return Streak(self.failures + 1 if fails or death.killed is Why.HUNG else 0, any_ready)

    def delay(self) -> float:
        """Seconds to wait before the next child is started: the first replacement comes at once."""
        return 0.0 if self.failures <= 1 else clock.backoff(self.failures - 2, 0.25, 10.0)

    def give_up(self, death: Death) -> int | None:
        """The exit code with which the worker gives up: none of its children ever got ready."""
        if self.any_ready:
            return None
        if death.status is not None and death.status >> 8 == EXIT_USAGE and not death.status & 0x7F:
            return EXIT_USAGE
        return EXIT_FAILURE if self.failures >= FIRST_TRIES else None
