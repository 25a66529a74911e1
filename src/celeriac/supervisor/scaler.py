"""Looks at the children of a worker that scales itself, asks what waits, and has `scaling` decide."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from celeriac import events, wire
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
        self._ready = ready
        self._scale = scaling.begin(_bounds(ready), now)
        #: By child, how many runs had ended at the last look.
        self._done: dict[int, int] = {}

    @property
    def wanted(self) -> int:
        return self._scale.wanted

    def adopt(self, ready: wire.Ready) -> None:
        """The application was loaded anew, and may have other slots."""
        self._ready = ready

    def look(
        self,
        children: Iterable[plan.Child],
        ended: dict[int, int],
        done: int,
        keeper: LeaseKeeper,
        now: float,
    ) -> None:
        """Look and decide, when it is time. `ended`: runs that have ended, by child; `done`: in all children ever."""
        if now < self._scale.at + _EVERY:
            return
        taking = [child for child in children if plan.takes(child)]
        moved = [
            child for child in taking if child.runs or ended[child.number] != self._done.get(child.number, 0)
        ]
        self._done = ended
        is_idle = len(moved) < len(taking)
        load = scaling.Load(
            busy=sum(len(child.runs) for child in taking),
            taking=len(taking),
            is_idle=is_idle,
            done=done,
            backlog=keeper.backlog(),
            room=_room(taking) if moved else None,
        )
        before = self._scale.wanted
        self._scale = scaling.decide(self._scale, load, _bounds(self._ready), now)
        if self._scale.wanted != before:
            emit(events.WorkerScaled(self._ready.hostname, before, self._scale.wanted, load.backlog or 0))
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
    known = available_memory()
    size = max((child.memory for child in taking), default=0) * 1024
    if known is None or not size:
        return None
    available, total = known
    return int((available - min(_LARGEST_RESERVE, total * _RESERVE)) // size)


def available_memory(proc: str = "/proc", cgroup: str = "/sys/fs/cgroup") -> tuple[int, int] | None:
    """Bytes that can still be had, and in all: of the machine, or of the control group where that is less.

    None: the system does not say.
    """
    known: list[tuple[int, int]] = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        with open(f"{proc}/meminfo", encoding="ascii") as file:
            fields = {
                name: int(text.split()[0]) * 1024 for name, _, text in (line.partition(":") for line in file)
            }
        known.append((fields["MemAvailable"], fields["MemTotal"]))
    with contextlib.suppress(OSError, ValueError, KeyError):
        limit, used = (int(_text(f"{cgroup}/memory.{name}")) for name in ("max", "current"))
        with open(f"{cgroup}/memory.stat", encoding="ascii") as file:
            stat = {name: int(number) for name, number in (line.split() for line in file)}
        # Pages of files that nobody uses now are given up when memory is wanted.
        known.append((limit - used + stat["inactive_file"], limit))
    return min(known) if known else None


def _text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
