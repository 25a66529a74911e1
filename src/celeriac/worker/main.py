"""A child: one worker process, from the fork to its exit code.

It connects for itself, takes its own messages and settles them. It stops when the supervisor says so, when
the supervisor is gone, on SIGTERM, after `max_tasks_per_child`, or when one of its threads is lost.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from functools import partial
from typing import Any, NamedTuple

from celeriac import clock, machine, message, plugins, pools, wire
from celeriac.board import ChildBoard
from celeriac.brokers.contract import Consumer
from celeriac.events import BUS, TaskBlocksLoop
from celeriac.exceptions import OperationalError
from celeriac.pools.contract import LoopPool, Pool, WatchedPool
from celeriac.wire import Channel, ChildReady, Fork, Imported, Owner, Retiring, Stopped, WorkerOptions
from celeriac.worker import executor, life
from celeriac.worker.batch import BatchSize
from celeriac.worker.consumer import TaskConsumer
from celeriac.worker.executor import Workbench
from celeriac.worker.limits import NET, SignalLimits, ThreadLimits
from celeriac.worker.order import order_of
from celeriac.worker.settler import Settler
from celeriac.worker.steward import Steward
from celeriac.worker.template import broadcasts_of, hostname_of, queues_of


def run_child(app: Any, options: WorkerOptions, fork: Fork, channel: Channel, board: ChildBoard) -> int:
    """Be a worker child until told to stop. Returns the exit code."""
    life.start_logs(options, app.conf, f"ForkPoolWorker-{fork.number}")
    for task in app.tasks.values():
        task.fix()
    app.openings.work_at(fork.post)
    hostname = hostname_of(options)
    life.child_begins(hostname)
    spec = pools.spec(options.pool or app.conf.worker_pool)
    pool: Pool = plugins.load(spec.path)(fork.slots)
    parts = assemble(app, options, fork, channel, board, pool, in_main_thread=spec.main_thread)
    _handle_signals(parts, channel)
    if isinstance(pool, WatchedPool):
        _look_after_loop(pool, parts.bench)
    parts.steward.start()
    # What its death is told with if it comes at once.
    board.memory(machine.peak_memory() // 1024)
    if parts.task_consumer.broadcasts:
        # Whoever is told that this worker is ready may count on its copy.
        with contextlib.suppress(OperationalError):
            parts.task_consumer.subscribe()
    channel.send(ChildReady(parts.bench.pid))
    if fork.standby:
        parts.begun.wait()
    parts.task_consumer.run()
    pool.wait_idle(threading.TIMEOUT_MAX)
    parts.bench.settler.flush()
    pool.close()
    life.child_ends(hostname)
    try:
        parts.consumer.close()
    except OperationalError:
        # The supervisor ends the lease when it can: what came and was never heard of may hang on it.
        return wire.EXIT_OK
    channel.send(Stopped())
    return wire.EXIT_OK


class Parts(NamedTuple):
    """What takes and runs messages, put together and not started. `begun`: set when a standby is to take."""

    bench: Workbench
    consumer: Consumer
    task_consumer: TaskConsumer
    steward: Steward
    begun: threading.Event


def assemble(
    app: Any, options: WorkerOptions, fork: Fork, channel: Channel, board: ChildBoard, pool: Pool,
    *, in_main_thread: bool,
) -> Parts:  # fmt: skip
    """Make the parts of one child. `in_main_thread`: runs are there, where a signal reaches them."""
    conf = app.conf
    hostname = hostname_of(options)
    queues = queues_of(conf, options, hostname)
    consumer: Consumer = app.reader.consumer(
        queues,
        fork.owner,
        lease=conf.worker_lease,
        max_deliveries=conf.task_max_deliveries,
    )
    bench = _bench(app, hostname, consumer, fork.slots, board)
    begun = threading.Event()
    # The consumer speaks of the steward, and the steward of the consumer: the consumer comes first.
    task_consumer = TaskConsumer(
        bench,
        consumer,
        pool,
        max_tasks=conf.worker_max_tasks_per_child,
        on_owner=lambda owner: channel.send(Owner(owner)),
        on_taken=lambda: steward.arm(),
        on_retire=lambda reason: channel.send(Retiring(reason)),
    )
    task_consumer.broadcasts = {one.name: one for one in broadcasts_of(conf, queues, hostname)}
    task_consumer.order = order_of(conf, options, queues)
    _tell_imports(app, channel)
    if in_main_thread:
        bench.signal_limits = SignalLimits()
    else:
        board.net = NET
        bench.thread_limits = ThreadLimits(
            pool,
            board,
            armed=lambda: steward.arm(),
            overran=partial(executor.overran, bench=bench),
            terminated=partial(executor.terminated, bench=bench),
            on_stray=task_consumer.retire,
        )
    steward = Steward(channel, task_consumer, bench, begun.set)
    return Parts(bench, consumer, task_consumer, steward, begun)


def _tell_imports(app: Any, channel: Channel) -> None:
    """Let the supervisor know of task modules that are imported here, for children to come."""

    def tell(module: str) -> None:
        channel.send(Imported((module,)))

    if app.modules is not None:
        app.modules.on_import = tell


def _bench(app: Any, hostname: str, consumer: Consumer, slots: int, board: ChildBoard) -> Workbench:
    conf = app.conf
    elsewhere = app.backend if app.backend.place != app.reader.place else None
    settler = Settler(consumer, app.reader.place, elsewhere, board)
    multiplier = conf.worker_prefetch_multiplier
    batch = BatchSize(slots, None if multiplier == "auto" else multiplier)
    return Workbench(app, hostname, board, settler, batch)


def _handle_signals(parts: Parts, channel: Channel) -> None:
    """SIGTERM drains this child alone. SIGINT is the supervisor's: a terminal sends it to the whole group."""

    def drain(number: int, frame: Any) -> None:
        channel.send(Retiring("SIGTERM"))
        parts.task_consumer.stop()
        parts.begun.set()

    signal.signal(signal.SIGTERM, drain)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    if parts.bench.signal_limits is not None:
        signal.signal(signal.SIGUSR1, parts.bench.signal_limits.on_signal)


def _look_after_loop(pool: WatchedPool, bench: Workbench) -> None:
    """Tell which task keeps the others waiting; in a main thread, let SIGUSR1 raise in one past its soft limit."""
    limits = bench.thread_limits
    if isinstance(pool, LoopPool) and limits is not None:
        bench.has_loop = True
        bench.settler.gather = partial(clock.sleep, 0)
        signal.signal(signal.SIGUSR1, lambda number, frame: limits.raise_in(pool.current()))

    def blocked(slot: int | None, seconds: float, where: str) -> None:
        for run in bench.board.read().runs:
            if run.slot == slot:
                BUS.emit(TaskBlocksLoop(message.id_of(run.key), run.name, seconds, where))
                return
        BUS.emit(TaskBlocksLoop("?", "?", seconds, where))

    pool.watch(blocked)
