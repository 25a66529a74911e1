"""Looks at the children of a worker that scales itself, asks what waits, and has `scaling` decide."""

from __future__ import annotations

from collections.abc import Sequence

from celeriac import events, machine, wire
from celeriac.events import emit
from celeriac.supervisor import plan, scaling
from celeriac.supervisor.leases import LeaseKeeper

#: Seconds between two looks.
_EVERY = 0.5
#: What a machine or a container should have left (bytes): the part of it all, and at most.
_RESERVE = 0.05
_LARGEST_RESERVE = 512 * 1024 * 1024


class Scaler:
    """Says how many processes there should be. Called from the supervisor's loop only."""

    def __init__(self, ready: wire.Ready, now: float) -> None:
        self.adopt(ready)
        self._scale = scaling.begin(self._bounds, now)
        #: By child, how many runs had ended at the last look.
        self._done: dict[int, int] = {}

    @property
    def wanted(self) -> int:
        return self._scale.wanted

    def adopt(self, ready: wire.Ready) -> None:
        """The application was loaded anew, and may have other slots."""
        self._hostname, self._bounds = ready.hostname, _bounds(ready)

    def is_due(self, now: float) -> bool:
        """Whether it is time for a look."""
        return now >= self._scale.at + _EVERY

    def look(self, children: Sequence[plan.Child], buried: int, keeper: LeaseKeeper, now: float) -> None:
        """Look and decide. `buried`: how many runs had ended in the children that are gone."""
        taking = [child for child in children if plan.takes(child)]
        moved = [child for child in taking if child.runs or child.done != self._done.get(child.number, 0)]
        self._done = {child.number: child.done for child in children}
        is_idle = len(moved) < len(taking)
        load = scaling.Load(
            busy=sum(len(child.runs) for child in taking),
            taking=len(taking),
            is_idle=is_idle,
            done=buried + sum(self._done.values()),
            backlog=keeper.backlog(),
            room=_room(taking) if moved else None,
        )
        before = self._scale.wanted
        self._scale = scaling.decide(self._scale, load, self._bounds, now)
        if self._scale.wanted != before:
            emit(events.WorkerScaled(self._hostname, before, self._scale.wanted, load.backlog or 0))
        if taking and not is_idle:
            # The answer is there at the next look.
            keeper.count_backlog()


def _bounds(ready: wire.Ready) -> scaling.Bounds:
    return scaling.Bounds(
        least=ready.processes,
        most=ready.most_processes or ready.processes,
        slots=ready.slots,
        keepalive=ready.scale_keepalive,
    )


def _room(taking: list[plan.Child]) -> int | None:
    """How many more processes like the largest there is memory for, or how many too many there are."""
    known = machine.available_memory()
    size = max((child.memory for child in taking), default=0) * 1024
    if known is None or not size:
        return None
    available, total = known
    return int((available - min(_LARGEST_RESERVE, total * _RESERVE)) // size)
