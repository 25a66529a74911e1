"""A worker in the hands of a test: it runs what is due when it is told to, and time passes when it is told to.

    with inline_worker(app) as worker:
        remind.apply_async((17,), countdown=3600)
        assert worker.drain() == 0
        assert worker.advance(3600) == 1

Messages, retries, follow-ups and results take the same road as in a worker, in this thread and without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from celeriac import clock, context, urls, wire
from celeriac.board import ChildBoard, board_fd
from celeriac.contrib.testing.clock import MovableClock
from celeriac.drivers.memory import Space
from celeriac.events import BUS, TaskFailed
from celeriac.exceptions import ImproperlyConfigured, LeaseLost
from celeriac.pools.solo import SoloPool
from celeriac.wire import Channel, Fork, WorkerOptions
from celeriac.worker.main import assemble
from celeriac.worker.template import queues_of

#: So many runs in one `drain` mean that they go on for ever.
MOST: Final = 100_000
_AT_ONCE: Final = 256


class InlineWorker:
    """See `inline_worker`. One thread uses it."""

    def __init__(self, app: Any, queues: tuple[str, ...], moving: MovableClock, free: ExitStack) -> None:
        self._app = app
        self._clock = moving
        options = WorkerOptions(queues=queues, hostname="inline@test")
        names = queues_of(app.conf, options, options.hostname)
        space = Space.open(urls.parse(app.conf.broker_read_url or app.conf.broker_url))
        self._queues = [space.queue(name) for name in names]
        ours, theirs = (Channel(end, blocking=False) for end in wire.socket_pair())
        free.callback(ours.close)
        free.callback(theirs.close)
        board = ChildBoard(board_fd(1), 1)
        self._parts = assemble(
            app, options, Fork(1, f"inline-{id(self)}", 1), theirs, board, SoloPool(), in_main_thread=True
        )
        free.callback(self._parts.consumer.close)
        free.callback(self._parts.steward.close)

    def drain(self, throw: bool | None = None) -> int:
        """Run everything that is due, and what follows from it, until nothing is. Returns how many runs that took.

        With `throw` (None: `task_eager_propagates`) the error of the first task that failed is raised, when all have
        run. Time limits are not kept.

        Raises: RuntimeError: there is no end to it.
        """
        throw = self._app.conf.task_eager_propagates if throw is None else throw
        failed: list[BaseException] = []
        ran = 0
        with _listening(lambda event: failed.append(event.error)):
            while deliveries := self._take():
                for delivery in deliveries:
                    run: Any = self._parts.task_consumer.admit(delivery)
                    if run is not None:
                        run(0)
                        ran += 1
                self._parts.bench.settler.flush()
                if ran > MOST:
                    raise RuntimeError(f"{ran:,} runs, and there is no end to it: does a task send itself?")
        if failed and throw:
            raise failed[0]
        return ran

    def advance(self, seconds: float, throw: bool | None = None) -> int:
        """Let so much time pass, and run each task when it is due. Returns how many runs that took. See `drain`."""
        until = clock.now() + seconds
        ran = self.drain(throw)
        while (due := self._next_due()) is not None and due <= until:
            self._clock.move_to(due)
            ran += self.drain(throw)
        self._clock.move_to(until)
        return ran + self.drain(throw)

    def _next_due(self) -> float | None:
        return min((queue.delayed[0][0] for queue in self._queues if queue.delayed), default=None)

    def _take(self) -> list[Any]:
        try:
            return self._parts.consumer.take(_AT_ONCE, 0.0)
        except LeaseLost:  # more time has passed than a lease lasts; the consumer has a new one now
            return self._parts.consumer.take(_AT_ONCE, 0.0)


@contextmanager
def inline_worker(app: Any, *queues: str) -> Generator[InlineWorker]:
    """A worker for the block: of these queues, or of those that the settings name.

    Inside it, `advance` moves time on for all that Celeriac does in this process; what reads the system's clock itself
    sees no change.

    Raises: ImproperlyConfigured: the application's broker is not `memory://`.
    """
    if not app.broker.place.startswith("memory:"):
        raise ImproperlyConfigured("an inline worker needs a broker in memory: broker_url='memory://'")
    app.finalize()
    with ExitStack() as free, MovableClock() as moving, context.as_current(app):
        yield InlineWorker(app, queues, moving, free)


@contextmanager
def _listening(listener: Callable[[Any], None]) -> Generator[None]:
    BUS.listen(TaskFailed, listener)
    try:
        yield
    finally:
        BUS.forget(TaskFailed, listener)
