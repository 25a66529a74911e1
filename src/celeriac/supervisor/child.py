"""One child as its supervisor holds it: the channel, the board, the process, and where it is in its life.

It notices and tells; what is to be done about it is decided in `plan`. Nothing here waits for the child.
"""

from __future__ import annotations

import contextlib
import os
import signal

from celeriac import clock, wire
from celeriac.board import ChildBoard, ChildSnapshot, RunSnapshot, board_fd
from celeriac.supervisor import plan
from celeriac.supervisor.condition import ChildCondition, RunCondition
from celeriac.supervisor.plan import State, Why
from celeriac.wire import Channel

_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


class Child:
    """A child from the moment that a fork was asked for until its death has been dealt with."""

    def __init__(self, fork: wire.Fork, generation: int, home: int, now: float) -> None:
        """`home` is the process id of the template that is asked to fork it."""
        self.number = fork.number
        self.owner = fork.owner
        self.post = fork.post
        self.slots = fork.slots
        self.generation = generation
        self.home = home
        self.begun = not fork.standby
        self.state = State.BOOTING
        self.was_ready = False
        self.started_at = now
        self.quiet_at = now
        self.heard_at = now
        self._round_at = now
        self.due_at: float | None = None
        self.killed = Why.NOTHING
        self.killed_at = 0.0
        self.overrun: tuple[RunSnapshot, ...] = ()
        self.memory = 0
        #: Set when the process is known to have ended: its status, or None until a template says it.
        self.status: int | None = None
        self.gone_at: float | None = None
        self._is_cut = False
        self._is_behind = False
        self._beat_at = 0.0
        self._progress = (0.0, 0)
        self.pid: int | None = None
        self._warned: frozenset[int] = frozenset()
        self._pidfd: int | None = None
        ours, theirs = wire.socket_pair()
        self.channel = Channel(ours, blocking=False)
        shared = board_fd(fork.slots)
        self._board = ChildBoard(shared, fork.slots)
        # Ours until the template has them.
        self.handover: tuple[int, ...] = (theirs.detach(), shared)

    @property
    def pidfd(self) -> int | None:
        """A descriptor that becomes readable when the process ends; None where the system has none."""
        return self._pidfd

    def grow_old(self, max_age: float | None, variance: float) -> None:
        """Draw the age at which it is replaced, so that children started together do not go together."""
        if max_age is not None:
            self.due_at = self.started_at + max_age + variance * clock.chance()

    def handed_over(self) -> None:
        """The template has its own copies of the descriptors, or is dead."""
        for fd in self.handover:
            os.close(fd)
        self.handover = ()

    def identify(self, pid: int) -> None:
        """The process id is known, from the template or from the child."""
        if self.pid is None:
            self.pid = pid
            if hasattr(os, "pidfd_open"):
                # No such process: it is dead and reaped already, and the template's word of that is on its
                # way.
                with contextlib.suppress(ProcessLookupError):
                    self._pidfd = os.pidfd_open(pid)

    def enter(self, state: State, now: float) -> None:
        """Move on to a later state of life; never back."""
        if state > self.state:
            self.state = state
            self.quiet_at = self.heard_at = self._round_at = now

    def cut(self, now: float) -> None:
        """Its channel has ended: it exits, or is of no more use."""
        if not self._is_cut:
            self._is_cut = True
            self.quiet_at = now

    def gone(self, now: float, status: int | None = None) -> None:
        """The process has ended."""
        self.gone_at = self.gone_at or now
        if status is not None:
            self.status = status

    @property
    def has_settled(self) -> bool:
        """Whether it said that it holds nothing any more, and ended well."""
        return self.state is State.STOPPED and not self.killed and self.status in (0, None)

    def snapshot(self) -> ChildSnapshot:
        """The board as it is now."""
        return self._board.read()

    def view(self, generation: int, now: float, post: int | None = None, silent: bool = False) -> plan.Child:
        """The child as a value for the plan. `post`: where the worker takes now; `silent`: where this child does,
        the broker is away."""
        board = self.snapshot()
        if board.runs:
            self.quiet_at = now
        if board.runs or board.beat_at != self._beat_at:
            self._beat_at = board.beat_at
            self.heard_at = now
        progress = (board.round_at, board.done)
        # Only one that takes has a main thread that is to come round.
        if board.runs or progress != self._progress or not self.begun or self.state is not State.READY:
            self._progress = progress
            self._round_at = now
        return plan.Child(
            number=self.number,
            state=State.STOPPED if self._is_cut else self.state,
            begun=self.begun,
            started_at=self.started_at,
            quiet_at=self.quiet_at,
            heard_at=min(self.heard_at, self._round_at),
            due_at=self.due_at,
            outdated=self.generation != generation,
            astray=post is not None and self.post != post,
            stranded=post is not None and self.post != post and silent,
            killed=self.killed,
            memory=self.memory or board.memory,
            slots=self.slots,
            runs=board.runs,
            done=board.done,
            warned=self._warned,
            away_since=board.away_since,
            store_away_since=board.store_away_since,
        )

    def forgive(self, seconds: float) -> None:
        """For so long the supervisor itself did not come round: that is nobody's silence."""
        self.heard_at += seconds
        self._round_at += seconds

    def excuse(self, now: float) -> None:
        """The broker does not answer, which may hold up a main thread that is well."""
        self._round_at = now
        if self.state is State.LEAVING:
            # It cannot settle what it has run: killed, it would have run that for nothing.
            self.quiet_at = now

    def condition(self, now: float) -> ChildCondition:
        """What health probes are told of it."""
        view = self.view(self.generation, now)
        runs = [RunCondition(task_id(run.key), run.name, now - run.started) for run in view.runs]
        return ChildCondition(
            number=self.number,
            pid=self.pid,
            state=view.state.name.lower(),
            standby=not self.begun,
            age=now - self.started_at,
            silence=self._silence(view.heard_at, now),
            killed=bool(self.killed),
            memory=view.memory,
            done=self.done,
            runs=runs,
        )

    def _silence(self, heard_at: float, now: float) -> float:
        if self.killed:
            return now - self.killed_at
        if self.pid is None:
            return now - self.started_at
        return now - heard_at if self.state in (State.READY, State.LEAVING) else 0.0

    @property
    def done(self) -> int:
        """How many runs have ended in it."""
        return self.snapshot().done

    def begin(self) -> None:
        """Tell a standby to take messages."""
        self.begun = True
        self.channel.send(wire.Begin())

    def revoke(self, word: wire.Revoke) -> None:
        """Tell it what is revoked. A child that does not listen is told later that it has missed something: what is
        said to it does not pile up here."""
        if self.channel.pending:
            self._is_behind = True
        else:
            self.channel.send(word)

    def ask(self, question: wire.Question) -> bool:
        """Ask it, unless it is not there for that, or has not heard yet what was said before. Whether it was asked."""
        if (
            self.state not in (State.READY, State.LEAVING)
            or self.killed
            or self._is_cut
            or self.channel.pending
        ):
            return False
        self.channel.send(question)
        return True

    def fall_behind(self) -> None:
        """It has missed something: what it has not started may be revoked."""
        self._is_behind = True

    def catch_up(self) -> None:
        """Send what could not be sent before."""
        self.channel.flush()
        if self._is_behind and not self.channel.pending:
            self._is_behind = False
            self.channel.send(wire.GiveBack())

    def drain(self, now: float) -> None:
        """Tell it to stop in order."""
        self.enter(State.LEAVING, now)
        self.channel.send(wire.Drain())

    def warn(self, run: RunSnapshot) -> None:
        """Send the soft signal for a run."""
        current = self.snapshot().runs
        self._warned = frozenset({run.sequence, *(r.sequence for r in current if r.sequence in self._warned)})
        if run.sequence in {r.sequence for r in current}:
            self.signal(signal.SIGUSR1)

    def kill(self, why: Why, runs: tuple[RunSnapshot, ...], now: float) -> bool:
        """End the process, unless every run that it was to be ended for is over. Whether it was killed."""
        if runs:
            current = {run.sequence for run in self.snapshot().runs}
            runs = tuple(run for run in runs if run.sequence in current)
            if not runs:
                return False
        self.killed = why
        self.killed_at = now
        self.overrun = runs
        self.signal(signal.SIGKILL)
        if self.pid is None:
            # Never forked, or forked late: then it finds its channel closed, and ends.
            self.gone(now)
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal; nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self.pid is not None and self.gone_at is None:
                os.kill(self.pid, number)

    def is_alive(self) -> bool:
        """Whether the process is there; a zombie counts as there."""
        if self.pid is None:
            return not self._is_cut
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 0)
            return True
        return False

    def measure(self) -> None:
        """Look up the resident memory, where the system shows it."""
        if self.pid is not None and self.gone_at is None:
            with contextlib.suppress(OSError), open(f"/proc/{self.pid}/statm", "rb") as statm:
                self.memory = int(statm.read().split()[1]) * _PAGE_KIB

    def death(self, now: float) -> plan.Death:
        """How it ended, as a value."""
        return plan.Death(
            status=self.status,
            killed=self.killed,
            state=self.state,
            was_ready=self.was_ready,
            age=now - self.started_at,
            runs=self.snapshot().runs,
            overrun=self.overrun,
        )

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        self.handed_over()
        self.channel.close()
        self._board.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def task_id(key: bytes) -> str:
    """A task's id as people write it."""
    text = key.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
