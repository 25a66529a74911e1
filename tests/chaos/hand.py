"""The hand: kills, stops and cuts off, by a schedule that its seed decides.

The schedule names its targets by numbers between 0 and 1, since nobody knows beforehand which processes there will
be; what was done to whom is noted as a `Deed`, a moment before it is done.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos import proxy
from tests.chaos.account import Deed
from tests.chaos.site import Site, Worker

#: What is done to processes, and how often of a hundred times.
KILLS = {
    ("child", "KILL"): 50.0, ("child", "SEGV"): 16.0, ("child", "STOP"): 13.0,
    ("template", "KILL"): 7.0, ("template", "STOP"): 3.0,
    ("supervisor", "KILL"): 5.0, ("supervisor", "STOP"): 3.0, ("supervisor", "TERM"): 3.0,
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Fault:
    """What is to be done `at` seconds after the start, for `seconds`. `which` and `pick` choose worker and process."""

    at: float
    target: str
    how: str
    which: float
    pick: float
    seconds: float


def plan(seed: int, seconds: float, kills: int, restarts: int, lease: float) -> list[Fault]:
    """The schedule of a seed: so many kills and server restarts over the time; networks and clocks besides."""
    draw = random.Random(f"hand {seed}")
    faults: list[Fault] = []

    def add(target: str, how: str, longest: float) -> None:
        at, which, pick = draw.uniform(0.0, seconds), draw.random(), draw.random()
        faults.append(Fault(at, target, how, which, pick, draw.uniform(0.1, longest)))

    for _ in range(kills):
        target, how = draw.choices(list(KILLS), list(KILLS.values()))[0]
        add(target, how, 2.5 * lease if target == "supervisor" else lease)
    for number in range(restarts):
        add("server", "KILL" if number % 2 == 0 else "TERM", 1.5)
    for number in range(max(len(proxy.MODES), kills // 8)):
        mode = proxy.MODES[number % len(proxy.MODES)]
        add("network", mode, 2.0 if mode == "delay" else 2.0 * lease if number % 4 == 0 else 0.5 * lease)
    for number in range(max(2, kills // 20)):
        add("clock", str((number % 2 * 2 - 1) * draw.choice((60, 3600, 86400))), lease)
    return sorted(faults)


class Hand(threading.Thread):
    """Does what the schedule says, takes back what can be, and starts workers anew that it has ended."""

    def __init__(self, site: Site, faults: list[Fault]) -> None:
        super().__init__(name="hand", daemon=True)
        self.deeds: list[Deed] = []
        self.error: BaseException | None = None
        self._site = site
        self._faults = faults
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._paused: set[int] = set()
        self._over = threading.Event()

    def finish(self) -> None:
        """Do nothing more, and take back everything. Returns when that is done."""
        self._over.set()
        self.join(30.0)
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        try:
            start = time.monotonic()
            for fault in self._faults:
                self._wait_until(start + fault.at)
                if self._over.is_set():
                    break
                self._do(fault)
            self._wait_until(float("inf"))
            while self._later:
                heapq.heappop(self._later)[2]()
            self._site.revive()
        except BaseException as exc:
            self.error = exc

    def _wait_until(self, moment: float) -> None:
        while not self._over.is_set():
            self._site.revive()
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            if now >= moment:
                return
            soonest = min(moment, self._later[0][0] if self._later else moment, now + 0.1)
            self._over.wait(soonest - now)

    def _do(self, fault: Fault) -> None:
        match fault.target:
            case "server":
                self._restart(fault)
            case "network":
                self._cut_off(fault)
            case "clock":
                self._site.set_clock(float(fault.how))
                self._note(fault, "", 0, fault.seconds)
                self._after(fault.seconds, lambda: self._site.set_clock(0.0))
            case _:
                self._hit(fault)

    def _hit(self, fault: Fault) -> None:
        """A process. Nothing happens where there is none just now."""
        workers = self._site.workers
        worker = workers[int(fault.which * len(workers))]
        pids = _targets(worker, fault.target)
        pids = [pid for pid in pids if pid not in self._paused]
        if not pids:
            return
        pid = pids[int(fault.pick * len(pids))]
        if fault.how != "STOP":
            self._note(fault, worker.name, pid)
            _send(pid, signal.Signals[f"SIG{fault.how}"])
            return
        self._note(fault, worker.name, pid, fault.seconds)
        self._paused.add(pid)
        _send(pid, signal.SIGSTOP)
        self._after(fault.seconds, lambda: self._continue(pid))

    def _continue(self, pid: int) -> None:
        self._paused.discard(pid)
        _send(pid, signal.SIGCONT)

    def _restart(self, fault: Fault) -> None:
        server = self._site.server
        if server is None:
            return
        since = time.monotonic()
        (server.kill if fault.how == "KILL" else server.stop)()
        time.sleep(fault.seconds)
        server.start()
        self.deeds.append(Deed("server", fault.how, "", 0, since, time.monotonic()))

    def _cut_off(self, fault: Fault) -> None:
        ways = self._site.ways
        if not ways:
            return
        name = list(ways)[int(fault.which * len(ways))]
        way = ways[name]
        if way.mode != "open":
            return
        workers = [worker.name for worker in self._site.workers if worker.role == name]
        self._note(fault, workers[0] if workers else name, 0, fault.seconds)
        way.set_mode(fault.how)
        self._after(fault.seconds, lambda: way.set_mode("open"))

    def _note(self, fault: Fault, worker: str, pid: int, seconds: float = float("inf")) -> None:
        now = time.monotonic()
        self.deeds.append(Deed(fault.target, fault.how, worker, pid, now, now + seconds))

    def _after(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, len(self.deeds), do))


def _targets(worker: Worker, target: str) -> list[int]:
    if target == "supervisor":
        return [worker.pid] if worker.is_alive else []
    return worker.templates() if target == "template" else worker.children()


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
