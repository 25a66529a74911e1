"""The template: imports the application once, then forks children that have it already.

Of user code it runs what `life` tells of the worker. It runs nothing else: no task, no thread, no broker connection,
so that a fork copies no lock that somebody holds. It obeys its supervisor's channel and ends with it. Children outlive
it: each has a channel of its own.

`worker/__main__.py` starts it with the real application finder and `run_child`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from select import POLLIN, POLLOUT
from typing import Any

from celeriac import connections, machine, native, plugins, pools, wire
from celeriac.board import ChildBoard
from celeriac.exceptions import ImproperlyConfigured
from celeriac.wire import Channel, Fork, Stopping, Up, Word, WorkerOptions

RunChild = Callable[[Any, WorkerOptions, Fork, Channel, ChildBoard], int]
Load = Callable[[WorkerOptions], Any]
#: Tells user code what comes next: a fork, or what the supervisor says; None is the end.
Tell = Callable[[Any, WorkerOptions, Word | None], None]

# A terminal sends these to the whole process group; the supervisor is the one that acts on them.
_SUPERVISORS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)


def tell_nobody(app: Any, options: WorkerOptions, word: Word | None) -> None:
    """The `Tell` of an application that wants to hear nothing."""


def serve(fd: int, load: Load, run_child: RunChild, tell: Tell = tell_nobody) -> int:
    """Import the application that the supervisor names, then fork children until the channel ends.

    `load` answers with the finished application. Returns an exit code; a child never returns.
    """
    for number in _SUPERVISORS_SIGNALS:
        native.signal(number, signal.SIG_IGN)
    channel = Channel(native.socket(fileno=fd))
    options = channel.receive()
    if not isinstance(options, WorkerOptions):
        return wire.EXIT_FAILURE
    try:
        app = load(options)
        ready = describe(app, options)
    except ImproperlyConfigured as exc:
        channel.send(wire.ImportFailed(f"{type(exc).__name__}: {exc}\n", wire.EXIT_USAGE))
        return wire.EXIT_USAGE
    except BaseException:  # noqa: BLE001 - user code, which may even exit; the supervisor tells it
        channel.send(wire.ImportFailed(traceback.format_exc()))
        return wire.EXIT_FAILURE
    _freeze()
    channel.send(ready)
    code = _Forks(app, options, channel, run_child, tell).serve()
    tell(app, options, None)
    return code


def _freeze() -> None:
    """What the children share with this process must be little, and not be touched by their garbage collectors."""
    machine.unmap_unchanged()
    gc.collect()
    machine.trim_heap()
    gc.freeze()


class _Forks:
    """The loop of a template that is ready, and the process ids of the children it has forked."""

    def __init__(
        self, app: Any, options: WorkerOptions, channel: Channel, run_child: RunChild, tell: Tell
    ) -> None:
        self._app = app
        self._tell = tell
        self._options = options
        self._run_child = run_child
        self._channel = channel
        self._pids: set[int] = set()
        self._wake_reader, self._wake_writer = native.socketpair()

    def serve(self) -> int:
        self._channel.set_blocking(False)
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        # Only now: the application's import may have handled SIGCHLD for its own ends.
        native.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)
        poll = native.poll()
        poll.register(self._wake_reader, POLLIN)
        while not self._channel.at_end:
            poll.register(self._channel, POLLIN | (POLLOUT if self._channel.pending else 0))
            if any(fd == self._wake_reader.fileno() for fd, _ in poll.poll()):
                self._wake_reader.recv(4096)
            self._channel.flush()
            self._reap()
            for word in self._channel.words():
                if isinstance(word, Fork):
                    self._fork(word)
                elif isinstance(word, Up | Stopping):
                    self._tell(self._app, self._options, word)
                elif isinstance(word, wire.Import):
                    self._import(word.modules)
                elif isinstance(word, wire.Question):
                    answer = plugins.load("celeriac.worker.inspection:of_app")(self._app, word)
                    self._channel.send(wire.Reply(word.number, answer))
        return wire.EXIT_OK

    def _import(self, modules: tuple[str, ...]) -> None:
        """What a child has needed, for the children to come. What fails here fails there too, and is told there."""
        before = set(sys.modules)
        for module in modules:
            with contextlib.suppress(ImproperlyConfigured):
                self._app.modules.load(module)
        imported = tuple(module for module in modules if module in sys.modules and module not in before)
        if imported:
            _freeze()
            self._channel.send(wire.Imported(imported))

    def _reap(self) -> None:
        # One by one: a process that the application started itself must keep its status for whoever waits
        # for it.
        for pid in list(self._pids):
            ended, status = native.waitpid(pid, os.WNOHANG)
            if ended:
                self._pids.discard(pid)
                self._channel.send(wire.Exited(pid, status))

    def _fork(self, fork: Fork) -> None:
        channel_fd, board_fd = self._channel.take_fd(), self._channel.take_fd()
        self._tell(self._app, self._options, fork)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = native.fork()
        if pid == 0:
            os._exit(self._be_child(fork, channel_fd, board_fd))
        os.close(channel_fd)
        os.close(board_fd)
        self._pids.add(pid)
        self._channel.send(wire.Forked(fork.number, pid))

    def _be_child(self, fork: Fork, channel_fd: int, board_fd: int) -> int:
        """What a child does from its first instruction to its exit code."""
        code = wire.EXIT_FAILURE
        try:
            signal.set_wakeup_fd(-1)
            native.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._channel.close()
            self._wake_reader.close()
            self._wake_writer.close()
            channel = Channel(native.socket(fileno=channel_fd))
            board = ChildBoard(board_fd, fork.slots)
            os.close(board_fd)
            code = self._run_child(self._app, self._options, fork, channel, board)
        except BaseException:  # noqa: BLE001 - nothing may get past here: above are the template's frames
            traceback.print_exc()
        finally:
            # The reader of our output may be gone; the code with which this child exits still matters.
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
        return code


def describe(app: Any, options: WorkerOptions) -> wire.Ready:
    """What the supervisor needs to know of the application's settings.

    Raises:
        ImproperlyConfigured: no such pool, no queue is left to take from, or no such order of them.
    """
    conf = app.conf
    pool = options.pool or conf.worker_pool
    given = options.concurrency or conf.worker_concurrency
    concurrency = given or machine.usable_cpus()
    processes, slots = pools.shape(pool, concurrency)
    processes *= options.processes or conf.worker_processes or 1
    most_processes = None
    if options.autoscale is not None:
        processes, most_processes, slots = pools.range_of(pool, given, *options.autoscale)
    hostname = hostname_of(options)
    queues = queues_of(conf, options, hostname)
    # By name: as in `queues_of`.
    order = plugins.load("celeriac.worker.order:order_of")(conf, options, queues)
    return wire.Ready(
        version=str(getattr(sys.modules["celeriac"], "__version__", "")),
        hostname=hostname,
        app=str(getattr(app, "main", None) or options.app),
        broker_url=conf.broker_read_url or conf.broker_url,
        broker_options=connections.of_broker(conf, reading=True)[0][1],
        broker_patience=conf.broker_failover_after,
        broker_lost_timeout=conf.broker_connection_lost_timeout,
        broker_retries=(conf.broker_connection_max_retries or None) if conf.broker_connection_retry else 0,
        broker_wait_at_start=conf.broker_connection_retry_on_startup is not False,
        results=conf.result_backend or "at the broker",
        queues=queues,
        broadcasts=_possible(broadcasts_of(conf, queues, hostname), app),
        queue_order=str(order or ""),
        tasks=_task_names(app),
        pool=pool,
        concurrency=concurrency,
        processes=processes,
        slots=slots,
        most_processes=most_processes,
        scale_keepalive=conf.worker_autoscale_keepalive,
        lease=conf.worker_lease,
        max_deliveries=conf.task_max_deliveries,
        dead_letter_max=conf.task_dead_letter_max,
        dead_letter_expires=conf.task_dead_letter_expires,
        shutdown_timeout=conf.worker_shutdown_timeout,
        start_timeout=conf.worker_proc_alive_timeout,
        max_tasks=conf.worker_max_tasks_per_child,
        max_memory=conf.worker_max_memory_per_child,
        kill_above_memory=conf.worker_kill_above_memory,
        max_age=conf.worker_max_age_per_child,
        max_age_variance=conf.worker_max_age_variance,
        time_limit=conf.task_time_limit,
        soft_time_limit=conf.task_soft_time_limit,
        remote_control=conf.worker_enable_remote_control,
        revoke_grace=conf.worker_revoke_grace,
        revoke_keep=conf.worker_revoke_expires,
        template_keepalive=_keepalive(conf),
    )


def _keepalive(conf: Any) -> float | None:
    """For how long it stays when no child is to be forked; None: for ever, as children come and go or for user code."""
    is_needed = (
        conf.worker_max_tasks_per_child is not None or plugins.load("celeriac.worker.life:is_needed")()
    )
    return None if is_needed else conf.worker_template_keepalive


def _possible(broadcasts: tuple[wire.Broadcast, ...], app: Any) -> tuple[wire.Broadcast, ...]:
    """These, if the broker can. Raises: ImproperlyConfigured: it cannot."""
    if broadcasts and not isinstance(app.reader, plugins.load("celeriac.brokers.abilities:Broadcasting")):
        raise ImproperlyConfigured(
            f"'task_queues' has {broadcasts[0].name!r}, a Broadcast, which {app.reader.place} lacks"
        )
    return broadcasts


def early_pool(options: WorkerOptions) -> str | None:
    """The pool's name where the command line gives it, so that it is known before the application is imported."""
    given: str | None = options.pool or options.settings.get("worker_pool")
    return given


def patch_early(options: WorkerOptions) -> None:
    """Let the pool change the standard library, if it does that: before the application is imported."""
    pool = early_pool(options)
    if pool is not None and (patch := pools.spec(pool).patch):
        plugins.find("pool", pool, {pool: patch})()


def _task_names(app: Any) -> tuple[str, ...]:
    """The names of the application's own tasks, those of modules that have not been imported too."""
    names = {*app.tasks, *(app.modules.names() if app.modules is not None else ())}
    return tuple(sorted(name for name in names if not name.startswith(("celery.", "celeriac."))))


def hostname_of(options: WorkerOptions) -> str:
    """The worker's name: as the command line says, else after the machine."""
    return options.hostname or f"celery@{platform.node()}"


def queues_of(conf: Any, options: WorkerOptions, hostname: str) -> tuple[str, ...]:
    """The queues that a worker takes from, in order, without repetition; a broadcast is followed by the worker's own
    queue of it.

    Raises:
        ImproperlyConfigured: `-X` leaves none, or `-Q` names one that may not be used.
    """
    # By name: what routing needs must not be imported before the pool has patched the standard library.
    usual = plugins.load("celeriac.routing:usual_queues")(conf)
    names = list(options.queues) or usual
    unknown = [name for name in names if name not in usual and name != conf.task_default_queue]
    if unknown and not conf.task_create_missing_queues:
        raise ImproperlyConfigured(
            f"-Q {unknown[0]}: this queue is not in task_queues, and task_create_missing_queues is off."
            f"{plugins.nearest(unknown[0], usual)}"
        )
    if conf.worker_direct:
        names.append(f"{hostname}.dq2")
    chosen = tuple(dict.fromkeys(name for name in names if name not in options.exclude))
    if not chosen:
        raise ImproperlyConfigured(f"no queue is left to take from: all of {', '.join(names)} are excluded")
    own = {one.name: one.queue for one in broadcasts_of(conf, chosen, hostname)}
    return tuple(queue for name in chosen for queue in (name, own.get(name)) if queue is not None)


def broadcasts_of(conf: Any, queues: Sequence[str], hostname: str) -> tuple[wire.Broadcast, ...]:
    """The broadcasts among these queues. Raises: ImproperlyConfigured: see `queues.broadcasts`."""
    if conf.task_queues is None:
        return ()
    found = plugins.load("celeriac.queues:broadcasts")(conf.task_queues)
    # A worker that lives renews its lease three times in one; so it does this.
    return tuple(
        wire.Broadcast(name, f"{name}.{hostname}", max(away, conf.worker_lease))
        for name, away in found.items()
        if name in queues
    )
