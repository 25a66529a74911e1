"""A child: one worker process, from the fork to its exit code.

It connects for itself, takes its own messages and settles them. It stops when the supervisor says so, when
the supervisor is gone, on SIGTERM, after `max_tasks_per_child`, or when one of its threads is lost.
"""

from __future__ import annotations

import resource
import signal
import sys
import threading
from typing import Any

from celeriac import plugins, pools, task_logs, wire
from celeriac.brokers.contract import Consumer
from celeriac.context import Request
from celeriac.pools.contract import Pool
from celeriac.wire import Channel, ChildBoard, ChildReady, Fork, Owner, Retiring, Stopped, WorkerOptions
from celeriac.worker import executor
from celeriac.worker.batch import BatchSize
from celeriac.worker.consumer import TaskConsumer
from celeriac.worker.executor import Workbench
from celeriac.worker.limits import SignalLimits, ThreadLimits
from celeriac.worker.settler import Settler
from celeriac.worker.steward import Steward
from celeriac.worker.template import hostname_of, queues_of


def run_child(app: Any, options: WorkerOptions, fork: Fork, channel: Channel, board: ChildBoard) -> int:
    """Be a worker child until told to stop. Returns the exit code."""
    conf = app.conf
    task_logs.start(options, conf, f"ForkPoolWorker-{fork.number}")
    for task in app.tasks.values():
        task.fix()
    hostname = hostname_of(options)
    spec = pools.spec(options.pool or conf.worker_pool)
    pool: Pool = plugins.load(spec.path)(fork.slots)
    consumer: Consumer = app.broker.consumer(
        queues_of(conf, options, hostname),
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
    if spec.main_thread:
        bench.signal_limits = SignalLimits()
    else:

        def overran(request: Request, limit: float) -> None:
            executor.overran(request, limit, bench)
            task_consumer.retire(f"a thread of {request.task_object.name} overran its hard time limit")

        bench.thread_limits = ThreadLimits(pool, board, armed=lambda: steward.arm(), overran=overran)
    steward = Steward(channel, board, task_consumer, bench.settler, bench.thread_limits, begun.set)
    _handle_signals(task_consumer, channel, begun, bench.signal_limits)
    steward.start()
    board.memory(_memory())
    channel.send(ChildReady(bench.pid))
    if fork.standby:
        begun.wait()
    task_consumer.run()
    pool.wait_idle(threading.TIMEOUT_MAX)
    bench.settler.flush()
    pool.close()
    consumer.close()
    channel.send(Stopped())
    return wire.EXIT_OK


def _bench(app: Any, hostname: str, consumer: Consumer, slots: int, board: ChildBoard) -> Workbench:
    conf = app.conf
    elsewhere = app.backend if app.backend.place != app.broker.place else None
    settler = Settler(consumer, app.broker.place, elsewhere, lambda count: board.count(count, 0))
    multiplier = conf.worker_prefetch_multiplier
    batch = BatchSize(slots, None if multiplier == "auto" else max(1, multiplier))
    return Workbench(app, hostname, board, settler, batch)


def _memory() -> int:
    """The most memory that this process has had resident, in KiB: what its death is told with if it comes at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def _handle_signals(
    consumer: TaskConsumer,
    channel: Channel,
    begun: threading.Event,
    signal_limits: SignalLimits | None,
) -> None:
    """SIGTERM drains this child alone. SIGINT is the supervisor's: a terminal sends it to the whole group."""

    def drain(number: int, frame: Any) -> None:
        channel.send(Retiring("SIGTERM"))
        consumer.stop()
        begun.set()

    signal.signal(signal.SIGTERM, drain)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    if signal_limits is not None:
        signal.signal(signal.SIGUSR1, signal_limits.on_signal)
