"""A worker in a thread of the test's own process: it takes, runs and settles as a worker's child does.

There is no supervisor and no other process: a task that ends its process ends the test run. Runs are in threads of
their own, with `pool="solo"` in one, so that time limits hold. No signal handler is installed. Another thread hears
what `app.control` says, as a supervisor does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

from celeriac import brokers, connections, logs, signals, wire
from celeriac.board import ChildBoard, board_fd
from celeriac.contrib.testing import tasks
from celeriac.contrib.testing.hearing import Attendant
from celeriac.dispatch import Signal
from celeriac.events import BUS
from celeriac.exceptions import ImproperlyConfigured, UnknownOption
from celeriac.plugins import nearest
from celeriac.pools.threads import ThreadsPool
from celeriac.supervisor.leases import LeaseKeeper, Terms
from celeriac.wire import Channel, Drain, Fork, Stopping, Up, WorkerOptions
from celeriac.worker import life
from celeriac.worker.here import HERE
from celeriac.worker.main import assemble
from celeriac.worker.template import queues_of

WORKER_LOGLEVEL: Final = os.environ.get("WORKER_LOGLEVEL", "error")

test_worker_starting: Final = Signal("test_worker_starting")
test_worker_started: Final = Signal("test_worker_started", ["worker", "consumer"])
test_worker_stopped: Final = Signal("test_worker_stopped", ["worker"])

#: Celery's arguments that ask for nothing here.
_WITHOUT_EFFECT: Final = frozenset({"logfile", "without_heartbeat", "without_mingle", "without_gossip"})
_OPTIONS: Final = frozenset({"hostname", "queues", *_WITHOUT_EFFECT})
_POOLS: Final = ("solo", "threads")
_SILENT: Final = 1000
_LAST_CALL: Final = 1.0


class TestWorkController:
    """The worker that `start_worker` yields."""

    __test__ = False  # to pytest it looks like a test

    def __init__(self, app: Any, options: WorkerOptions, slots: int) -> None:
        self.app = app
        self.hostname = options.hostname
        self._options = options
        owner = f"{options.hostname}-{os.getpid()}-{os.urandom(4).hex()}"
        self._ours, self._theirs = (Channel(end, blocking=False) for end in wire.socket_pair())
        self._board = ChildBoard(board_fd(slots), slots)
        self._pool = ThreadsPool(slots)
        self._parts = assemble(
            app, options, Fork(1, owner, slots), self._theirs, self._board, self._pool, in_main_thread=False
        )
        conf = app.conf
        queues = queues_of(conf, options, options.hostname)
        terms = Terms(queues, conf.worker_lease, conf.task_max_deliveries)
        # A connection of its own, as a supervisor has: tasks do not hold it up.
        self._broker = brokers.connect(*connections.of_broker(conf, reading=True)[0])
        self._keeper = LeaseKeeper(self._broker, terms, lambda: None)
        self._keeper.add(owner)
        self._attendant = (
            Attendant(self._broker, queues, self._parts, self._ours, self._keeper, options.pool or "threads")
            if conf.worker_enable_remote_control
            else None
        )
        self._thread = threading.Thread(target=self._work, name="celeriac-test-worker", daemon=True)

    def start(self) -> None:
        """Begin to take messages, in threads."""
        signals.worker_init.send(sender=self)
        life.child_begins(self.hostname)
        self._keeper.start()
        HERE.enter(self._parts)
        self._parts.steward.start()
        if self._attendant is not None:
            self._attendant.start()
        self._thread.start()
        life.tell(self.app, self._options, Up())

    def stop(self, timeout: float) -> None:
        """Stop in order. Raises: RuntimeError: a task goes on for longer."""
        life.tell(self.app, self._options, Stopping("the test has ended", "Warm", 0))
        self._ours.send(Drain())
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise RuntimeError(
                "Worker thread failed to exit within the allocated timeout. "
                "Consider raising `shutdown_timeout` if your tasks take longer to execute."
            )
        if self._attendant is not None:
            self._attendant.close(_LAST_CALL)
        self._ours.close()
        self._parts.steward.join()
        self._parts.steward.close()
        self._theirs.close()
        HERE.leave(self._parts)
        self._keeper.close(_LAST_CALL)
        self._broker.close()
        life.tell(self.app, self._options, None)

    def _work(self) -> None:
        parts = self._parts
        parts.task_consumer.run()
        self._pool.wait_idle(threading.TIMEOUT_MAX)
        parts.bench.settler.flush()
        self._pool.close()
        life.child_ends(self.hostname)
        parts.consumer.close()


def setup_app_for_worker(app: Any, loglevel: str | int, logfile: str | None = None) -> None:
    """Make the application ready for a worker in this process, and current."""
    app.finalize()
    app.set_current()
    app.set_default()
    logs.listen(BUS, logs.level_of(loglevel))


@contextmanager
def start_worker(
    app: Any,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: str | int = WORKER_LOGLEVEL,
    perform_ping_check: bool = True,
    ping_task_timeout: float = 10.0,
    shutdown_timeout: float = 10.0,
    **options: Any,
) -> Generator[TestWorkController]:
    """A worker for the block, in threads of this process. Times in seconds. `options`: `hostname` and `queues`.

    `loglevel`: of the lines about tasks, which go to the logger `celeriac.worker`. `perform_ping_check`: run a task
    first.

    Raises:
        ImproperlyConfigured: a pool that needs processes of its own.
        UnknownOption: any other option.
        RuntimeError: a task goes on for longer than `shutdown_timeout`.
    """
    for name in options:
        if name not in _OPTIONS:
            raise UnknownOption(f"start_worker has no option {name!r}.{nearest(name, _OPTIONS)}")
    if pool not in _POOLS:
        raise ImproperlyConfigured(
            f"a worker in the test's process has pool 'solo' or 'threads', not {pool!r}"
        )
    queues = options.get("queues") or ()
    names = tuple(queues.split(",") if isinstance(queues, str) else queues)
    test_worker_starting.send(sender=app)
    setup_app_for_worker(app, loglevel)
    hostname = options.get("hostname") or f"gen{os.getpid()}@test"
    worker = TestWorkController(
        app,
        WorkerOptions(hostname=hostname, queues=names, pool=pool),
        concurrency if pool == "threads" else 1,
    )
    worker.start()
    try:
        test_worker_started.send(sender=app, worker=worker, consumer=None)
        if perform_ping_check:
            queue = names[0] if names else None
            answer = app.tasks[tasks.ping.name].apply_async(queue=queue).get(timeout=ping_task_timeout)
            assert answer == "pong"
        yield worker
    finally:
        worker.stop(shutdown_timeout)
        logs.listen(BUS, _SILENT)
        test_worker_stopped.send(sender=app, worker=worker)
