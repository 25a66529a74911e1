"""Questions that the supervisor cannot answer by itself: it passes them on, and gathers what is replied.

It never waits: what has not replied in time is missing in the answer, which has at least what the boards say. Replies
are not looked into here, and how many bytes of them there are at once is limited.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Final

import msgspec

from celeriac import clock, wire
from celeriac.notices import Ask
from celeriac.supervisor.condition import Condition

#: The template's number among those that are asked; children have theirs from 1 on.
TEMPLATE: Final = 0
#: For so long replies are awaited (seconds): those who ask wait for a second as a rule.
PATIENCE: Final = 0.5
#: So many questions are open at once; who asks more is answered from the boards.
_MOST_OPEN: Final = 4
#: So many bytes all replies to a question may have together.
_ROOM: Final = 256 * 1024


class Told(msgspec.Struct, frozen=True):
    """The answer to a question about something: how the worker is, what was replied, by child, and figures of the
    supervisor's own."""

    condition: Condition
    replies: Mapping[int, msgspec.Raw]
    figures: Mapping[str, Any]


class _Open(msgspec.Struct):
    reply: str
    awaited: set[int]
    until: float
    replies: dict[int, msgspec.Raw] = {}


class Questions:
    """Those that are open. For the main loop only."""

    def __init__(self, answer: Callable[[str, Mapping[int, msgspec.Raw]], None]) -> None:
        """`answer` is called with the name under which somebody listens, and the replies, when they are complete."""
        self._answer = answer
        self._numbers = count(1)
        self._open: dict[int, _Open] = {}

    def put(self, ask: Ask, put_to: Callable[[wire.Question], frozenset[int]]) -> None:
        """Have it asked: `put_to` says who was."""
        number = next(self._numbers)
        awaited = frozenset[int]()
        if len(self._open) < _MOST_OPEN:
            awaited = put_to(wire.Question(number, ask.about, ask.items, _ROOM))
        self._open[number] = _Open(ask.reply, set(awaited), clock.monotonic() + PATIENCE)
        self._end(number)

    def hear(self, who: int, reply: wire.Reply) -> None:
        """A child, or the template, has replied; nothing happens where that comes too late."""
        question = self._open.get(reply.number)
        if question is not None and who in question.awaited:
            question.awaited.discard(who)
            question.replies[who] = msgspec.Raw(reply.body)
            self._end(reply.number)

    def look(self) -> None:
        """Answer those whose time is over, with what has come."""
        now = clock.monotonic()
        for number, question in list(self._open.items()):
            if now >= question.until:
                question.awaited.clear()
                self._end(number)

    def _end(self, number: int) -> None:
        question = self._open[number]
        if not question.awaited:
            del self._open[number]
            self._answer(question.reply, question.replies)


def figures(ready: wire.Ready | None) -> dict[str, Any]:
    """What else statistics have of a worker: its limits, and what the supervisor itself has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    told: dict[str, Any] = {
        "rusage": {
            name.removeprefix("ru_"): getattr(used, name) for name in dir(used) if name.startswith("ru_")
        }
    }
    if ready is not None:
        told["max_tasks"] = ready.max_tasks
        told["timeouts"] = [ready.soft_time_limit, ready.time_limit]
    return told
