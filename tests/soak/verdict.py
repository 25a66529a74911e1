"""From what was seen of each process in the quiet stretches to a verdict. Pure: values in, values out.

Memory, files and threads are compared between quiet stretches, when all that was sent has ended: what a process holds
then it holds for nothing. The first stretches are warm-up: caches fill, threads start, pages shared with the
template are written for the first time.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.soak.watch import Look

MIB = 1024 * 1024
#: The first third of the quiet stretches is warm-up, and two at least.
_WARM_UP, _LEAST_WARM_UP = 1 / 3, 2
#: So much growth after warm-up is the noise of allocators, not of a leak (bytes).
NOISE = 1 * MIB
#: More connections than this are too many (promise P12).
MOST_CONNECTIONS = {"supervisor": 2, "template": 0, "child": 1}
#: Commands a second for each child of an idle worker (promise P13).
MOST_COMMANDS = 1.0


@dataclass(frozen=True)
class Stretch:
    """One process at the end of one quiet stretch.

    `at`: seconds since the start. `tasks`: how many its worker had ended. `idle`: the share of a core that it took.
    """

    at: float
    tasks: int
    look: Look
    idle: float


@dataclass
class Process:
    """One process over the whole soak. `role`: supervisor, template or child."""

    worker: str
    role: str
    pid: int
    stretches: list[Stretch] = field(default_factory=list)
    most_connections: int = 0

    @property
    def warm(self) -> list[Stretch]:
        """The quiet stretches after warm-up."""
        return self.stretches[max(_LEAST_WARM_UP, round(len(self.stretches) * _WARM_UP)) :]


@dataclass(frozen=True)
class Trend:
    """How something went by least squares: bytes an hour, for 100,000 tasks, from the first stretch to the last, and
    twice the standard error of that. `late` is the growth in the second half alone: that of a heap that
    fills up comes to an end, that of a leak does not."""

    per_hour: float
    per_tasks: float
    growth: float
    error: float
    late: float


def slope(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """The slope by least squares, and its standard error; noughts where there are too few points."""
    if len(xs) < 3 or len(set(xs)) < 2:
        return 0.0, 0.0
    fit = statistics.linear_regression(xs, ys)
    mean = statistics.fmean(xs)
    rest = sum((y - fit.slope * x - fit.intercept) ** 2 for x, y in zip(xs, ys, strict=True))
    error = (rest / (len(xs) - 2) / sum((x - mean) ** 2 for x in xs)) ** 0.5
    return fit.slope, error


def trend(process: Process) -> Trend:
    """How the own memory of a process went after warm-up."""
    warm = process.warm
    memory = [float(one.look.own) for one in warm]
    by_time, error = slope([one.at for one in warm], memory)
    by_tasks, _ = slope([float(one.tasks) for one in warm], memory)
    seconds = warm[-1].at - warm[0].at if warm else 0.0
    half = len(warm) // 2
    late, _ = slope([one.at for one in warm[half:]], memory[half:])
    return Trend(
        by_time * 3600, by_tasks * 100_000, by_time * seconds, 2 * error * seconds, late * seconds / 2
    )


def broken(processes: Sequence[Process], commands: dict[str, float] | None) -> list[str]:
    """What was promised and not kept. `commands`: of an idle worker, each second; None: no server saw them."""
    found = []
    for one in processes:
        name, warm = f"{one.worker} {one.role} {one.pid}", one.warm
        if len(warm) < 3:
            found.append(f"{name}: too few quiet stretches to say anything: {len(warm)}; take more minutes")
            continue
        went = trend(one)
        if min(went.growth, 2 * went.late) > max(NOISE, went.error):
            found.append(
                f"P12: {name} grew by {went.growth / MIB:.1f} MiB: {went.per_hour / MIB:.1f} MiB an hour, "
                f"{went.per_tasks / MIB:.2f} MiB for 100,000 tasks"
            )
        if one.most_connections > MOST_CONNECTIONS[one.role]:
            found.append(f"P12: {name} had {one.most_connections} connections")
        for what in ("files", "threads"):
            counts = [getattr(stretch.look, what) for stretch in warm]
            if min(counts[len(counts) // 2 :]) > max(counts[: len(counts) // 2]):
                found.append(f"P12: {name} has more {what} from time to time: {counts}")
    for worker, rate in (commands or {}).items():
        children = sum(one.worker == worker and one.role == "child" for one in processes)
        if rate > MOST_COMMANDS * children:
            found.append(
                f"P13: {worker} sent {rate:.2f} commands a second when idle, with {children} children"
            )
    return found


def table(processes: Sequence[Process], commands: dict[int, float] | None) -> str:
    """Figures for each process. `commands`: of each idle process, each second."""
    lines = [
        f"{'worker':10}{'process':12}{'tasks':>9}{'PSS MB':>8}{'RSS MB':>8}{'own MB':>8}{'MB/hour':>9}{'+-':>7}"
        f"{'MB/100k':>9}{'conn':>6}{'files':>7}{'threads':>9}{'idle cpu':>10}{'cmd/s':>7}"
    ]
    for one in processes:
        if not one.warm:
            continue
        last, went = one.stretches[-1], trend(one)
        hours = (last.at - one.warm[0].at) / 3600 or 1.0
        idle = statistics.median(stretch.idle for stretch in one.warm)
        rate = "-" if commands is None else f"{commands.get(one.pid, 0.0):.2f}"
        look = last.look
        lines.append(
            f"{one.worker:10}{one.role:12}{last.tasks:9,}{look.pss / 1e6:8.1f}{look.rss / 1e6:8.1f}"
            f"{look.own / 1e6:8.2f}{went.per_hour / 1e6:9.2f}{went.error / hours / 1e6:7.2f}"
            f"{went.per_tasks / 1e6:9.3f}{one.most_connections:6}{look.files:7}{look.threads:9}"
            f"{idle:10.2%}{rate:>7}"
        )
    return "\n".join(lines)
