"""The children of one worker: carries out what `plan` decides, and deals with what they say and how they end.

Nothing here waits. The main loop calls `look` often and whenever something was heard; descriptors to listen
on are in the selector, each with the function to call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from selectors import EVENT_READ, BaseSelector

import msgspec

from celeriac import clock, events, wire
from celeriac.brokers.contract import Casualty
from celeriac.events import emit
from celeriac.notices import Revoke
from celeriac.supervisor import plan
from celeriac.supervisor.child import Child, task_id
from celeriac.supervisor.condition import Condition
from celeriac.supervisor.leases import Surrender
from celeriac.supervisor.plan import Limits, State, Streak, Wishes
from celeriac.supervisor.posts import Posts
from celeriac.supervisor.scaler import Scaler
from celeriac.supervisor.template import Template

#: How long it may take until the status of a child that is known to be dead is told: by its template, or, where that
#: is gone, by the system.
_STATUS_WAIT = 1.5
_MEASURE_EVERY = 1.0
#: Where a child is to be killed for its memory, it is looked at more often: a machine can fill up in a second.
_MEASURE_OFTEN = 0.25
#: A loop that has not come round for longer was held up itself: the machine slept, or somebody stopped it.
_HELD_UP = 2.0
_ROUNDS = 8


class Crew:
    """All children, of whichever template."""

    def __init__(self, selector: BaseSelector, hear: Callable[[int, wire.Reply], None]) -> None:
        """`hear` is called with the number of a child and what it replies."""
        self.children: dict[int, Child] = {}
        #: Set when the worker is to give up: none of its children comes up.
        self.gave_up: int | None = None
        #: Set when a template does not do what it is asked for.
        self.stuck: Template | None = None
        #: Whether all children have been up once.
        self.is_complete = False
        self._selector = selector
        self._hear_reply = hear
        self._ready: wire.Ready | None = None
        self._template: Template | None = None
        self._posts: Posts | None = None
        self._homes: dict[int, Template] = {}
        self._identity = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._spawned = 0
        self._streak = Streak()
        self._spawn_at = 0.0
        self._measured_at = 0.0
        self._looked_at = clock.monotonic()
        self._done = 0
        #: By key, when a run of a revoked task is to be ended.
        self._condemned: dict[bytes, float] = {}
        self._scaler: Scaler | None = None
        #: Modules that children had to import for themselves, for templates to come.
        self.learned: dict[str, None] = {}

    def adopt(self, template: Template, ready: wire.Ready, posts: Posts) -> None:
        """Fork from this template from now on; children of an earlier generation are to be replaced."""
        self._template, self._ready, self._posts = template, ready, posts
        self._homes[template.pid] = template
        if self._scaler is not None:
            self._scaler.adopt(ready)
        elif ready.most_processes is not None:
            self._scaler = Scaler(ready, clock.monotonic())

    def forget(self, template: Template) -> None:
        """The template is gone; its children may live on."""
        self._homes.pop(template.pid, None)
        if self._template is template:
            self._template = None
        for child in self.children.values():
            if child.home == template.pid:
                child.handed_over()

    def lives_in(self, template: Template) -> bool:
        """Whether a child of that template is left."""
        return any(child.home == template.pid for child in self.children.values())

    def look(self, stop_at: float | None) -> None:
        """See how the children are, and do what the plan says, until it has no more to say."""
        if self._ready is None:
            return
        now = clock.monotonic()
        held_up, self._looked_at = now - self._looked_at, now
        silent = self._posts.silent if self._posts is not None else frozenset[int]()
        self._measure(now)
        for child in list(self.children.values()):
            if held_up > _HELD_UP:
                child.forgive(held_up)
            if child.post in silent:
                child.excuse(now)
            self._notice_end(child, now)
        self._rescale(now)
        limits = self._limits(self._ready)
        for _ in range(_ROUNDS):
            actions = plan.decide(self._views(now), self._wishes(stop_at), limits, now)
            for action in actions:
                self._act(action, now)
            if not actions:
                break
        for child in self.children.values():
            child.catch_up()
        self._tell_when_complete()

    def lacks_child(self) -> bool:
        """Whether a template is needed, to fork a child now."""
        now = clock.monotonic()
        return self._ready is not None and plan.lacks(
            self._views(now), self._wishes(None), self._limits(self._ready), now
        )

    def spares(self, template: Template) -> bool:
        """Whether this template may be let go until a child is lacking."""
        keepalive = self._ready.template_keepalive if self._ready is not None else None
        if (
            keepalive is None
            or len(self.children) != 1  # Before the boards of all are read, at every look.
            or template is not self._template
            or not template.is_told
            or self._scaler is not None
        ):
            return False
        # What takes long to come back stays for longer.
        keepalive *= max(1.0, template.boot_time)
        now = clock.monotonic()
        return plan.spares_template(self._views(now), self._wishes(None), keepalive, now)

    def _limits(self, ready: wire.Ready) -> Limits:
        return Limits(
            start_timeout=ready.start_timeout,
            max_memory=ready.max_memory,
            kill_above_memory=ready.kill_above_memory,
            condemned=self._condemned,
        )

    def _rescale(self, now: float) -> None:
        scaler, posts = self._scaler, self._posts
        if scaler is not None and posts is not None and self.is_complete and scaler.is_due(now):
            scaler.look(self._views(now), self._done, posts.keeper, now)

    @property
    def _processes(self) -> int:
        """How many there should be."""
        if self._scaler is not None:
            return self._scaler.wanted
        return self._ready.processes if self._ready else 0

    def held_up(self) -> tuple[float | None, float | None]:
        """For how many seconds no child has been able to take because of the broker, or of either broker or store."""
        now = clock.monotonic()
        views = self._views(now)
        broker = plan.held_up_since(views, lambda child: child.away_since)
        either = plan.held_up_since(views, lambda child: child.away_since or child.store_away_since)
        return now - broker if broker else None, now - either if either else None

    def next_look(self, stop_at: float | None, longest: float) -> float:
        """Seconds until the next `look`, if nothing is heard before."""
        now = clock.monotonic()
        if any(child.gone_at is not None for child in self.children.values()):
            longest = min(longest, 0.02)
        return plan.next_look(self._views(now), self._wishes(stop_at), now, longest)

    def forked(self, number: int, pid: int) -> None:
        """The template has forked a child."""
        if child := self.children.get(number):
            child.handed_over()
            self._identify(child, pid)

    def ended(self, pid: int, status: int) -> None:
        """A process that may be one of the children has ended."""
        for child in self.children.values():
            if child.pid == pid:
                child.gone(clock.monotonic(), status)

    def revoke(self, notice: Revoke) -> None:
        """Tell the children, and have runs ended that do not end by themselves."""
        if self._ready is None or not notice.keys:
            return
        now = clock.monotonic()
        grace = 0.0 if notice.signal else self._ready.revoke_grace
        word = wire.Revoke(notice.keys, notice.keep, notice.terminate, grace)
        for child in self.children.values():
            child.revoke(word)
        if notice.terminate:
            self._condemned = plan.condemn(self._condemned, notice.keys, now + grace, now)

    def ask(self, question: wire.Question) -> frozenset[int]:
        """Ask all children, who share its room. The numbers of those that were asked."""
        room = question.room // max(1, len(self.children))
        question = msgspec.structs.replace(question, room=room)
        return frozenset(child.number for child in self.children.values() if child.ask(question))

    def running(self) -> frozenset[bytes]:
        """The keys of all that runs now."""
        return frozenset(run.key for child in self.children.values() for run in child.snapshot().runs)

    def give_back(self) -> None:
        """Children give back what they have not started: the broker knows what of it is revoked."""
        for child in self.children.values():
            child.fall_behind()

    def condition(self, worker: str, stopping: bool, uptime: float) -> Condition:
        """What health probes are told, and whoever asks for the status."""
        now = clock.monotonic()
        children = tuple(child.condition(now) for child in self.children.values())
        no_takes, no_ends = self.held_up()
        return Condition(
            worker=worker,
            came_up=self.is_complete,
            stopping=stopping,
            broker=self._posts.keeper.condition() if self._posts else None,
            children=children,
            no_takes=no_takes,
            no_ends=no_ends,
            done=self._done + sum(child.done for child in children),
            queues=self._ready.queues if self._ready else (),
            version=self._ready.version if self._ready else "",
            pool=self._ready.pool if self._ready else "",
            processes=self._processes,
            slots=self._ready.slots if self._ready else 0,
            pid=os.getpid(),
            uptime=uptime,
        )

    def _views(self, now: float) -> list[plan.Child]:
        generation = self._template.generation if self._template else -1
        post = self._posts.current if self._posts else None
        silent = self._posts.silent if self._posts else frozenset[int]()
        return [
            child.view(
                generation if self._template else child.generation, now, post, silent=child.post in silent
            )
            for child in self.children.values()
        ]

    def _wishes(self, stop_at: float | None) -> Wishes:
        return Wishes(
            processes=self._processes,
            can_fork=self._template is not None,
            spawn_at=self._spawn_at,
            stop_at=stop_at,
        )

    def _act(self, action: plan.Action, now: float) -> None:
        if isinstance(action, plan.Spawn):
            self._spawn(action.standby, now)
            return
        child = self.children[action.number]
        match action:
            case plan.Begin():
                child.begin()
            case plan.Drain(reason=reason):
                if child.pid is not None and reason != "shutdown":
                    emit(events.ChildRecycled(child.number, child.pid, reason))
                child.drain(now)
            case plan.Warn(run=run):
                child.warn(run)
            case plan.Kill(why=why, runs=runs):
                if child.pid is None and child.killed is plan.Why.NOTHING and why is plan.Why.HUNG:
                    self.stuck = self._homes.get(child.home)
                if child.kill(why, runs, now) and why is plan.Why.TIME_LIMIT:
                    for run in child.overrun:
                        emit(events.TaskOverran(task_id(run.key), run.name, run.limit, hard=True))

    def _spawn(self, standby: bool, now: float) -> None:
        template, ready, posts = self._template, self._ready, self._posts
        if template is None or ready is None or posts is None:
            return
        number = next(n for n in range(1, len(self.children) + 2) if n not in self.children)
        self._spawned += 1
        owner = f"{ready.hostname}-{self._identity}.{number}.{self._spawned}"
        fork = wire.Fork(number, owner, ready.slots, standby, posts.current)
        child = Child(fork, template.generation, template.pid, now)
        child.grow_old(ready.max_age, ready.max_age_variance)
        self.children[number] = child
        posts.keeper.add(owner)
        self._selector.register(child.channel, EVENT_READ, partial(self._hear, child))
        template.channel.send(fork, child.handover)

    def _identify(self, child: Child, pid: int) -> None:
        child.identify(pid)
        pidfd = child.pidfd
        if pidfd is not None and pidfd not in self._selector.get_map():
            self._selector.register(pidfd, EVENT_READ, partial(self._see_end, child))

    def _hear(self, child: Child) -> None:
        now = clock.monotonic()
        for word in child.channel.words():
            match word:
                case wire.ChildReady(pid=pid):
                    child.handed_over()
                    self._identify(child, pid)
                    child.was_ready = True
                    child.enter(State.READY, now)
                    child.measure()
                    emit(events.ChildReady(child.number, pid))
                case wire.Owner(owner=owner):
                    self._follow(child, owner)
                case wire.Retiring(reason=reason):
                    child.enter(State.LEAVING, now)
                    emit(events.ChildRecycled(child.number, child.pid or 0, reason))
                case wire.Imported(modules=modules):
                    self._share(modules)
                case wire.Reply():
                    self._hear_reply(child.number, word)
                case wire.Stopped():
                    child.enter(State.STOPPED, now)
                case _:
                    pass
        if child.channel.at_end and child.channel.fileno() in self._selector.get_map():
            self._selector.unregister(child.channel)
            child.cut(now)

    def _share(self, modules: tuple[str, ...]) -> None:
        """Let the template import what a child needed, so that the children to come share it."""
        self.learned.update(dict.fromkeys(modules))
        if self._template is not None and self._template.is_alive:
            self._template.channel.send(wire.Import(modules))

    def _follow(self, child: Child, owner: str) -> None:
        if self._posts is not None:
            keeper = self._posts.keeper_of(child.post)
            keeper.add(owner)
            keeper.discard(child.owner)
        emit(events.LeaseWasLost(child.owner))
        child.owner = owner

    def _see_end(self, child: Child) -> None:
        if child.pidfd is not None:
            self._selector.unregister(child.pidfd)
        child.gone(clock.monotonic())

    def _notice_end(self, child: Child, now: float) -> None:
        is_orphan = child.home not in self._homes
        if child.gone_at is None and is_orphan and child.pidfd is None and not child.is_alive():
            child.gone(now)
        if child.gone_at is None:
            return
        if child.status is not None or child.pid is None or now >= child.gone_at + _STATUS_WAIT:
            self._bury(child, now)

    def _bury(self, child: Child, now: float) -> None:
        # Its last words may not have been read yet.
        if not child.channel.at_end:
            self._hear(child)
        death = child.death(now)
        self._surrender(child, death)
        if not plan.is_expected(death):
            names = tuple(run.name for run in death.runs)
            emit(events.ChildDied(child.number, child.pid or 0, plan.cause(death), names))
        self._streak = self._streak.after(death)
        self._spawn_at = now + self._streak.delay()
        if self.gave_up is None:
            self.gave_up = self._streak.give_up(death)
        for fd in (child.channel.fileno(), child.pidfd):
            if fd is not None and fd in self._selector.get_map():
                self._selector.unregister(fd)
        self._done += child.done
        child.close()
        del self.children[child.number]

    def _surrender(self, child: Child, death: plan.Death) -> None:
        if self._posts is None or self._ready is None:
            return
        keeper = self._posts.keeper_of(child.post)
        if child.has_settled:
            keeper.discard(child.owner)
            return
        losses = plan.losses(death)
        memory = child.memory or child.snapshot().memory
        casualty = Casualty(plan.cause(death), clock.now(), self._ready.hostname, memory * 1024 or None)
        casualties = dict.fromkeys(losses.crashed, casualty)
        keeper.surrender(Surrender(child.owner, casualties, losses.verdicts))

    def _measure(self, now: float) -> None:
        often = self._ready is not None and self._ready.kill_above_memory is not None
        if now < self._measured_at + (_MEASURE_OFTEN if often else _MEASURE_EVERY):
            return
        self._measured_at = now
        for child in self.children.values():
            child.measure()

    def _tell_when_complete(self) -> None:
        template = self._template
        if template is None or template.is_told or self._ready is None:
            return
        if self._posts is not None and not self._posts.has_listened:
            # Who is told that a worker is ready may ask it something at once.
            return
        taking = sum(
            child.state is State.READY and child.begun and child.generation == template.generation
            for child in self.children.values()
        )
        if taking >= self._ready.processes:
            template.is_told = True
            template.channel.send(wire.Up())
            if not self.is_complete:
                self.is_complete = True
                emit(events.WorkerReady(self._ready.hostname))
