"""The supervisor: starts a worker's processes, keeps them as they should be, and ends them in order.

It imports no user code: the template does, and tells what the supervisor needs to know. One loop, which waits
for signals and for the other processes at once and never for one of them alone; what is decided in it
is in `plan`, what is done to children in `crew`. Works as process 1 of a container.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import selectors
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from types import FrameType, TracebackType
from typing import Self

import msgspec

from celeriac import clock, machine, notices, wire
from celeriac.events import WorkerStarting, WorkerStopped, WorkerStopping, emit
from celeriac.exceptions import ImproperlyConfigured
from celeriac.notices import Ask, Banned, Revoke, Shutdown
from celeriac.supervisor import banner, condition, questions
from celeriac.supervisor.crew import Crew
from celeriac.supervisor.health import HealthServer
from celeriac.supervisor.listener import Missed, NoticeListener
from celeriac.supervisor.plan import FIRST_TRIES
from celeriac.supervisor.posts import Posts
from celeriac.supervisor.questions import Questions, Told
from celeriac.supervisor.template import COMMAND, Template
from celeriac.wire import WorkerOptions

#: An idle supervisor wakes this often: new runs with time limits are seen on the boards by looking.
_TICK = 0.25
#: Seconds at the end in which leases are ended, and in which the template may exit.
_LAST_CALLS = 3.0
_TEMPLATE_EXIT = 1.0
#: What a reload cannot change, and the setting that it comes from: leases that are held depend on it.
_FIXED = {
    "broker_url": "broker_url", "broker_options": "broker_transport_options", "queues": "the queues",
    "lease": "worker_lease", "max_deliveries": "task_max_deliveries",
    "dead_letter_max": "task_dead_letter_max", "dead_letter_expires": "task_dead_letter_expires",
}  # fmt: skip
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD)

_log = logging.getLogger("celeriac.supervisor")


def run(options: WorkerOptions, command: Sequence[str] = COMMAND) -> int:
    """Run a worker until it is told to stop. Returns its exit code (`wire.EXIT_CODES`).

    `command` starts a template.
    """
    with Supervisor(options, command) as supervisor:
        return supervisor.run()


class SignalInbox:
    """Queues signals, and makes the selector return when one comes. Handlers do nothing else."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)
        self._queue: deque[int] = deque()
        for number in _SIGNALS:
            signal.signal(number, self._put)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        faulthandler.register(signal.SIGUSR1)

    def _put(self, number: int, frame: FrameType | None) -> None:
        self._queue.append(number)

    def wake(self) -> None:
        """Make the selector return; may be called from any thread."""
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def take(self) -> list[int]:
        """The signals that have come, each once."""
        with contextlib.suppress(BlockingIOError):
            self.reader.recv(4096)
        numbers: dict[int, None] = {}
        while self._queue:
            number = self._queue.popleft()
            numbers[number] = None
        return list(numbers)

    def close(self) -> None:
        """Ignore further signals. Idempotent."""
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
        self.reader.close()
        self._writer.close()


class Supervisor:
    """The loop, its signals, its templates and the lease keeper."""

    def __init__(self, options: WorkerOptions, command: Sequence[str]) -> None:
        self._options = options
        self._command = command
        self._inbox = SignalInbox()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._inbox.reader, selectors.EVENT_READ, None)
        self._questions = Questions(self._answer_asker)
        self._crew = Crew(self._selector, self._questions.hear)
        self._templates: list[Template] = []
        self._current: Template | None = None
        self._ready: wire.Ready | None = None
        self._posts: Posts | None = None
        self._generation = 0
        self._failed_templates = 0
        self._template_at = 0.0
        #: Whether the template was let go, until a child is lacking.
        self._rests = False
        self._started_at = clock.monotonic()
        self._stop_at: float | None = None
        self._exit_code: int | None = None
        self._health: HealthServer | None = None
        # With a terminal, SIGHUP means that it was closed.
        self._has_terminal = os.isatty(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Leave no process behind, whatever happened. Children of a dead supervisor stop on their own."""
        for child in self._crew.children.values():
            child.close()
        for template in self._templates:
            template.kill()
        if self._health is not None:
            self._health.close()
        self._inbox.close()
        self._selector.close()

    def run(self) -> int:
        """The worker's life."""
        machine.adopt_orphans()
        emit(WorkerStarting(self._name))
        self._open_health()
        self._start_template()
        while self._exit_code is None or self._crew.children:
            timeout = self._crew.next_look(self._stop_at, _TICK)
            for key, _ in self._selector.select(timeout):
                if key.data is not None:
                    key.data()
            for number in self._inbox.take():
                self._obey(number)
            self._hear_notices()
            self._look()
        return self._finish(self._exit_code)

    @property
    def _name(self) -> str:
        return self._ready.hostname if self._ready else self._options.hostname or "celery"

    def _open_health(self) -> None:
        fd = self._options.health_fd
        if fd is not None:
            os.set_inheritable(fd, False)
            self._health = HealthServer(socket.socket(fileno=fd), self._selector, self._answer)
            _log.info("health probes are answered at %s/live and /ready", self._health.place)

    def _answer(self, path: str, is_near: bool) -> tuple[int, str]:
        return condition.answer(path, is_near, self._condition())

    def _condition(self) -> condition.Condition:
        return self._crew.condition(
            self._name, self._stop_at is not None, clock.monotonic() - self._started_at
        )

    def _hear_notices(self) -> None:
        for listener in self._posts.listeners if self._posts else ():
            self._hear_from(listener)

    def _hear_from(self, listener: NoticeListener) -> None:
        for heard in listener.take():
            match heard:
                case Revoke():
                    self._crew.revoke(heard)
                    if heard.reply:
                        listener.answer(
                            heard.reply,
                            {"ok": f"{len(heard.keys) + len(heard.ended)} tasks flagged as revoked"},
                        )
                case Banned():
                    self._crew.give_back()
                    if heard.reply:
                        listener.answer(heard.reply, {"ok": "headers flagged as revoked"})
                case Ask(about=notices.ABOUT_REVOKED):
                    ended = self._posts.ended() if self._posts else []
                    told = Told(self._condition(), {}, {notices.ABOUT_REVOKED: ended})
                    listener.answer(heard.reply, told)
                case Ask() if heard.about:
                    self._questions.put(heard, self._pass_on)
                case Ask():
                    listener.answer(heard.reply, condition.status(self._condition()))
                case Shutdown():
                    self._stop("app.control.shutdown", wire.EXIT_OK)
                    if heard.reply:
                        listener.answer(heard.reply, {"ok": "shutting down"})
                case Missed():
                    self._crew.give_back()
                    listener.check(self._crew.running())

    def _pass_on(self, question: wire.Question) -> frozenset[int]:
        """Put a question to whoever knows of it."""
        if question.about in notices.ABOUT_TASKS:
            return self._crew.ask(question)
        template = self._current
        if question.about not in notices.ABOUT_APP:
            return frozenset()
        if template is None:
            return self._crew.ask(question)
        if template.channel.pending:
            return frozenset()
        template.channel.send(question)
        return frozenset((questions.TEMPLATE,))

    def _answer_asker(self, name: str, replies: Mapping[int, msgspec.Raw]) -> None:
        figures = questions.figures(self._ready)
        # Who asks listens at one of them.
        for listener in self._posts.listeners if self._posts else ():
            listener.answer(name, Told(self._condition(), replies, figures))

    def _look(self) -> None:
        if self._posts is not None and self._stop_at is None:
            self._posts.look(self._crew.held_up()[0])
        self._crew.look(self._stop_at)
        self._questions.look()
        if self._health is not None:
            self._health.look()
        if (stuck := self._crew.stuck) is not None:
            self._crew.stuck = None
            _log.error("the process that forks children does not answer: it is replaced")
            self._drop(stuck)
        now = clock.monotonic()
        for template in list(self._templates):
            template.channel.flush()
            self._look_at_template(template, now)
        if self._stop_at is not None:
            return
        if (self._posts is not None and self._posts.are_given_up) or self._cannot_take():
            self._stop(self._why_broker_is_given_up(), wire.EXIT_BROKER_UNAVAILABLE)
        elif self._crew.gave_up is not None:
            self._stop("no child comes up", self._crew.gave_up)
        elif self._current is None and not self._is_booting() and now >= self._template_at:
            if not self._rests or self._crew.lacks_child():
                self._start_template()

    def _is_booting(self) -> bool:
        return any(template.ready is None for template in self._templates)

    # ---- signals

    def _obey(self, number: int) -> None:
        match number:
            case signal.SIGCHLD:
                self._reap()
            case signal.SIGHUP if not self._has_terminal:
                self._reload()
            case signal.SIGQUIT:
                self._stop("SIGQUIT", wire.EXIT_OK, timeout=0.0)
            case _:
                self._stop(signal.Signals(number).name, wire.EXIT_OK)

    def _stop(self, reason: str, code: int, timeout: float | None = None) -> None:
        """Begin an orderly stop; asked a second time, end it now."""
        now = clock.monotonic()
        if self._stop_at is not None:
            self._stop_at = min(self._stop_at, now)
            return
        if timeout is None:
            timeout = self._ready.shutdown_timeout if self._ready else 0.0
        self._stop_at = now + timeout
        self._exit_code = code
        emit(WorkerStopping(self._name, reason))
        how = "Warm" if timeout > 0 else "Cold"
        for template in self._templates:
            if template.ready is None:
                template.kill()
            else:
                template.channel.send(wire.Stopping(reason, how, code))

    def _reload(self) -> None:
        if self._stop_at is None and self._ready is not None and not self._is_booting():
            self._generation += 1
            self._start_template()

    def _reap(self) -> None:
        # Everything that is ours to reap, and as process 1 that is every orphan.
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                for template in self._templates:
                    if template.pid == pid:
                        template.status = status
                self._crew.ended(pid, status)

    # ---- templates

    def _start_template(self) -> None:
        options = msgspec.structs.replace(self._options, learned=tuple(self._crew.learned))
        template = Template(self._command, options, self._generation, clock.monotonic())
        self._templates.append(template)
        self._selector.register(
            template.channel, selectors.EVENT_READ, partial(self._hear_template, template)
        )

    def _hear_template(self, template: Template) -> None:
        for word in template.channel.words():
            match word:
                case wire.Ready():
                    template.become_ready(word, clock.monotonic())
                    self._install(template, word)
                case wire.ImportFailed():
                    template.failed = word
                case wire.Forked(number=number, pid=pid):
                    self._crew.forked(number, pid)
                case wire.Imported():
                    # Children that were forked before have it for themselves, or not at all.
                    self._generation += 1
                    template.generation = self._generation
                case wire.Reply():
                    self._questions.hear(questions.TEMPLATE, word)
                case wire.Exited(pid=pid, status=status):
                    self._crew.ended(pid, status)
                case _:
                    pass
        if template.channel.at_end:
            self._drop(template)

    def _look_at_template(self, template: Template, now: float) -> None:
        if template.ready is None and now >= template.started_at + self._options.boot_timeout:
            text = f"importing the application took longer than {self._options.boot_timeout:g} seconds\n"
            template.failed = wire.ImportFailed(text)
            self._drop(template)
        elif template is not self._current and template.ready and not self._crew.lives_in(template):
            if template.leaving_at is None:
                template.leave(now)
            elif now >= template.leaving_at + _TEMPLATE_EXIT:
                self._drop(template)
        elif template.status is not None:
            self._hear_template(template)
        elif self._stop_at is None and self._crew.spares(template):
            self._let_go(template)

    def _let_go(self, template: Template) -> None:
        """It is nothing but a copy of what the one child has. Killed: what it would do at its exit is not due yet."""
        _log.debug("the process that forks children is not needed: it ends until it is")
        self._rests = True
        self._current = None
        self._forget(template)

    def _drop(self, template: Template) -> None:
        """The template has ended, or is of no more use."""
        if template not in self._templates:
            return
        self._forget(template)
        if self._current is template:
            self._current = None
        if self._stop_at is not None or (template.ready is not None and self._current is not None):
            return
        self._failed_templates += 1
        self._template_at = clock.monotonic() + clock.backoff(self._failed_templates - 1, 0.05, 30.0)
        if template.ready is None:
            self._crew.learned.clear()
            self._tell_failure(template)

    def _forget(self, template: Template) -> None:
        self._templates.remove(template)
        self._selector.unregister(template.channel)
        template.kill()
        self._crew.forget(template)

    def _tell_failure(self, template: Template) -> None:
        failed = template.failed or wire.ImportFailed("the process that imports the application died\n")
        is_accident = template.failed is None and self._failed_templates < FIRST_TRIES
        if is_accident or (self._ready is not None and (self._crew.children or self._current)):
            _log.error("the application cannot be loaded now: %s", failed.text.rstrip())
            self._generation = self._current.generation if self._current else self._generation
            return
        self._write(failed.text)
        self._stop("the application cannot be imported", failed.code)

    def _install(self, template: Template, ready: wire.Ready) -> None:
        if self._stop_at is not None:
            return
        if self._posts is None:
            try:
                self._posts = Posts(ready, self._inbox.wake)
            except ImproperlyConfigured as exc:
                self._write(f"{type(exc).__name__}: {exc}\n")
                self._stop("the broker cannot be used", wire.EXIT_USAGE)
                return
            self._posts.start()
            if not self._options.quiet:
                self._write(banner.render(ready))
        elif changed := self._changed(ready):
            text = f"only a restart of the worker can change {', '.join(changed)}: it goes on as it was\n"
            template.ready, template.failed = None, wire.ImportFailed(text, wire.EXIT_USAGE)
            self._drop(template)
            return
        self._ready, self._current = ready, template
        self._failed_templates, self._rests = 0, False
        self._crew.adopt(template, ready, self._posts)
        machine.trim_heap()

    def _changed(self, ready: wire.Ready) -> list[str]:
        """What the loaded application wants otherwise, of that which leases and their keeper depend on."""
        if self._ready is None:
            return []
        return [
            setting
            for field, setting in _FIXED.items()
            if getattr(self._ready, field) != getattr(ready, field)
        ]

    def _cannot_take(self) -> bool:
        """Whether leases are renewed, perhaps, but no child has been able to take for too long."""
        timeout = self._ready.broker_lost_timeout if self._ready else None
        no_takes, _ = self._crew.held_up()
        return timeout is not None and no_takes is not None and no_takes >= timeout

    def _why_broker_is_given_up(self) -> str:
        broker = self._posts.keeper.condition() if self._posts else None
        if broker and broker.renewed is None and self._ready and not self._ready.broker_wait_at_start:
            return "the broker is away, and broker_connection_retry_on_startup is off"
        if not (self._posts and self._posts.are_given_up) and not (broker and broker.is_silent):
            return "the broker has let no child take for too long"
        return "the broker has been away for too long"

    # ---- the end

    def _finish(self, code: int) -> int:
        if self._posts is not None:
            self._posts.deafen(_LAST_CALLS)
        # They have a last word to say to the application, which may take its time meanwhile.
        for template in self._templates:
            template.close()
        if self._posts is not None and not self._posts.close(_LAST_CALLS):
            _log.warning("the broker is away: what the children held comes back when their leases end")
        until = clock.monotonic() + _TEMPLATE_EXIT
        self._reap()
        while any(template.status is None for template in self._templates):
            remaining = until - clock.monotonic()
            if remaining <= 0:
                break
            self._inbox_wait(remaining)
            self._reap()
        emit(WorkerStopped(self._name, code))
        return code

    def _inbox_wait(self, timeout: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._inbox.reader, selectors.EVENT_READ)
            selector.select(timeout)
        self._inbox.take()

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()
