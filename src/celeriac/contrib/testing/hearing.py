"""What a worker in the test's process hears and answers: notices, which in other workers come to the supervisor."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any, Final

import msgspec

import celeriac
from celeriac import clock, message, notices, wire
from celeriac.brokers.contract import Broker
from celeriac.notices import Ask, Banned, Revoke, Shutdown
from celeriac.supervisor import condition, questions
from celeriac.supervisor.condition import ChildCondition, Condition, RunCondition
from celeriac.supervisor.leases import LeaseKeeper
from celeriac.supervisor.listener import Heard, Missed, NoticeListener
from celeriac.supervisor.questions import Told
from celeriac.wire import Channel, Drain, GiveBack, Question
from celeriac.worker import inspection
from celeriac.worker.main import Parts

#: The one child that there is.
_NUMBER: Final = 1
#: So many bytes a reply may have, about.
_ROOM: Final = 256 * 1024
#: For so long a broker is awaited that is to let us listen (seconds).
_PATIENCE: Final = 5.0


class Attendant:
    """Acts on notices, in a thread of its own, as a supervisor does in its loop."""

    def __init__(
        self,
        broker: Broker,
        queues: Sequence[str],
        parts: Parts,
        channel: Channel,
        keeper: LeaseKeeper,
        pool: str,
    ) -> None:
        """`channel`: the supervisor's end, on which the worker is told what to do."""
        self._bench = parts.bench
        self._consumer = parts.task_consumer
        self._channel = channel
        self._keeper = keeper
        self._queues = tuple(queues)
        self._pool = pool
        self._grace: float = parts.bench.app.conf.worker_revoke_grace
        self._began = clock.monotonic()
        self._woken = threading.Event()
        self._listens = threading.Event()
        self._is_closing = False
        self._listener = NoticeListener(broker, self._queues, parts.bench.hostname, self._woken.set)
        self._thread = threading.Thread(target=self._serve, name="celeriac-test-notices", daemon=True)

    def start(self) -> None:
        """Listen from now on: what is said after this returns is heard, unless the broker is away."""
        self._listener.start()
        self._thread.start()
        self._listens.wait(_PATIENCE)

    def close(self, timeout: float) -> None:
        """Hear nothing more."""
        self._is_closing = True
        self._woken.set()
        self._thread.join(timeout)
        self._listener.close(timeout)

    def _serve(self) -> None:
        while not self._is_closing:
            self._woken.wait()
            self._woken.clear()
            for heard in self._listener.take():
                self._act(heard)

    def _act(self, heard: Heard) -> None:
        match heard:
            case Revoke():
                grace = 0.0 if heard.signal else self._grace
                self._channel.send(wire.Revoke(heard.keys, heard.keep, heard.terminate, grace))
                self._reply(
                    heard.reply, {"ok": f"{len(heard.keys) + len(heard.ended)} tasks flagged as revoked"}
                )
            case Banned():
                self._channel.send(GiveBack())
                self._reply(heard.reply, {"ok": "headers flagged as revoked"})
            case Ask(about=notices.ABOUT_REVOKED):
                told = Told(self._condition(), {}, {notices.ABOUT_REVOKED: self._listener.ended()})
                self._reply(heard.reply, told)
            case Ask() if heard.about:
                self._reply(
                    heard.reply, Told(self._condition(), self._replies(heard), questions.figures(None))
                )
            case Ask():
                self._reply(heard.reply, condition.status(self._condition()))
            case Shutdown():
                self._channel.send(Drain())
                self._reply(heard.reply, {"ok": "shutting down"})
            case Missed():
                self._channel.send(GiveBack())
                self._listener.check(frozenset(run.key for run in self._bench.board.read().runs))
                self._listens.set()

    def _reply(self, name: str, body: Any) -> None:
        if name:
            self._listener.answer(name, body)

    def _replies(self, ask: Ask) -> dict[int, msgspec.Raw]:
        question = Question(0, ask.about, ask.items, _ROOM)
        if ask.about in notices.ABOUT_TASKS:
            return {_NUMBER: msgspec.Raw(inspection.of_child(question, self._bench, self._consumer.waiting))}
        if ask.about in notices.ABOUT_APP:
            return {questions.TEMPLATE: msgspec.Raw(inspection.of_app(self._bench.app, question))}
        return {}

    def _condition(self) -> Condition:
        now, board = clock.monotonic(), self._bench.board.read()
        child = ChildCondition(
            number=_NUMBER,
            pid=os.getpid(),
            state="leaving" if self._consumer.stopping.is_set() else "ready",
            age=now - self._began,
            memory=board.memory,
            done=board.done,
            runs=[RunCondition(message.id_of(run.key), run.name, now - run.started) for run in board.runs],
        )
        return Condition(
            worker=self._bench.hostname,
            came_up=True,
            stopping=self._consumer.stopping.is_set(),
            broker=self._keeper.condition(),
            children=(child,),
            done=board.done,
            queues=self._queues,
            version=celeriac.__version__,
            pool=self._pool,
            processes=1,
            slots=self._bench.board.slots,
            pid=os.getpid(),
            uptime=now - self._began,
        )
