"""`python -m tests.chaos --minutes 10 --seed 7`: a load, a hand that breaks things, and an account at the end.

`--tasks` and `--kills` say how much; without them, 160 tasks and 1.7 kills for each second. The exit code is 1 when a
promise was broken. What everybody wrote is kept in `--folder`, where that is given.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celeriac import message, stored
from celeriac.app import Celeriac
from celeriac.exceptions import OperationalError
from tests.chaos import account, hand, load
from tests.chaos.account import Letter, Sent, Story, Terms, Verdict
from tests.chaos.proxy import Network
from tests.chaos.site import Site

LEASE, MAX_DELIVERIES, SHUTDOWN_TIMEOUT = 3.0, 3, 2.0
SETTINGS = {
    "worker_lease": LEASE, "task_max_deliveries": MAX_DELIVERIES, "worker_shutdown_timeout": SHUTDOWN_TIMEOUT,
    "broker_connection_lost_timeout": 60.0,
}  # fmt: skip
#: A call to a server that does not answer is given up after so many seconds: less than a lease.
SOCKET_TIMEOUT = 1.5


@dataclass(frozen=True)
class Options:
    """What is to be done: for `seconds` it is sent and broken, then what is left has `drain` seconds to end."""

    seconds: float
    seed: int
    tasks: int
    kills: int
    restarts: int
    broker: str = "redis"
    drain: float = 120.0


def run(options: Options, folder: Path) -> Verdict:
    """Everything, from the first worker's start to the verdict."""
    settings: dict[str, Any] = dict(SETTINGS)
    if options.broker == "redis":
        settings["broker_transport_options"] = {"socket_timeout": SOCKET_TIMEOUT}
    elif options.broker == "postgres":
        settings["broker_transport_options"] = {"timeout": SOCKET_TIMEOUT}
    elif options.broker == "rabbitmq":
        settings["broker_transport_options"] = {"timeout": SOCKET_TIMEOUT, "heartbeat": 1}
        settings["result_backend"] = f"sqlite:///{folder}/results.sqlite"
        # A file has the clock of who writes, and one of these is wrong.
        settings["result_expires"] = None
    calls = load.plan(options.seed, options.tasks, options.seconds)
    faults = hand.plan(options.seed, options.seconds, options.kills, options.restarts, LEASE)
    if options.broker == "sqlite":
        # There is no server whose clock decides what is due: the machine's does, and its processes share one.
        faults = [fault for fault in faults if fault.target != "clock"]
    with Network() as network:
        site = Site(folder, options.broker, settings, network)
        try:
            site.start()
            breaker = hand.Hand(site, faults)
            breaker.start()
            with load.make_app(site.url("sender"), **settings) as sender:
                sent = send(sender, calls)
            breaker.finish()
            with load.make_app(site.url("nobody"), **settings) as app:
                drain(app, site, options.drain)
                site.stop()
                story = Story(
                    sent, read_runs(folder), breaker.deeds, read_ends(app, sent), read_letters(app),
                    terms(options.broker), site.troubles,
                )  # fmt: skip
        finally:
            site.close()
    return account.judge(story)


def terms(broker: str) -> Terms:
    """What was promised on that broker."""
    doubles = broker == "rabbitmq"
    return Terms(LEASE, MAX_DELIVERIES, SHUTDOWN_TIMEOUT, load.EARLY, load.DEADLY, doubles)


def send(app: Celeriac, calls: list[load.Call]) -> list[Sent]:
    """Make every call at its time; what cannot be stored is not sent again."""
    start = time.monotonic()
    sent: list[Sent] = []
    for call in calls:
        time.sleep(max(0.0, start + call.at - time.monotonic()))
        since, is_sure = time.monotonic(), True
        try:
            load.send(app, call)
        except OperationalError:
            is_sure = False
        until = time.monotonic()
        before = None
        for number, task_id in enumerate(call.ids):
            result = number + 1 if call.kind == "chained" else call.value
            sent.append(Sent(task_id, call.kind, since, until, is_sure, before, result))
            before = task_id
    return sent


def drain(app: Celeriac, site: Site, seconds: float) -> None:
    """Wait until nothing waits or runs; what does after that time is trouble."""
    until = time.monotonic() + seconds
    while True:
        site.revive()
        busy = site.busy(app)
        if not busy:
            return
        if time.monotonic() > until:
            site.troubles += [f"not empty after {seconds:g} s: {one}" for one in busy]
            return
        time.sleep(0.1)


def read_runs(folder: Path) -> list[account.Run]:
    """What every process has written."""
    lines: list[str] = []
    for path in folder.glob("runs-*"):
        lines += path.read_text().splitlines(keepends=True)
    return account.read_runs(lines)


def read_ends(app: Celeriac, sent: list[Sent]) -> dict[str, tuple[str, object]]:
    """State and result of every task that has one."""
    ends: dict[str, tuple[str, object]] = {}
    for start in range(0, len(sent), 1000):
        ids = {message.key_of(one.id): one.id for one in sent[start : start + 1000]}
        for key, data in app.backend.get(list(ids)).items():
            record = stored.decode(data, app.conf.accept_content)
            ends[ids[key]] = record.state, record.result
    return ends


def read_letters(app: Celeriac) -> dict[str, Letter]:
    """Every dead letter."""
    letters: dict[str, Letter] = {}
    for queue in load.QUEUES:
        after = None
        while page := app.broker.dead(queue, after=after, limit=100):
            after = page[-1].key
            for one in page:
                causes = tuple(casualty.cause for casualty in one.casualties)
                letters[message.id_of(one.key)] = Letter(one.reason, causes)
    return letters


def report(options: Options, verdict: Verdict, seconds: float) -> str:
    """The account and the verdict, for people."""
    lines = [f"seed {options.seed}, {options.broker}, {seconds:.0f} s", "", verdict.table, ""]
    for name, told in verdict.broken.items():
        lines += [f"BROKEN: {name}: {len(told)}", *(f"  {one}" for one in told[:10])]
    if verdict.is_good:
        lines.append("every promise was kept")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, which is told")
    parser.add_argument("--tasks", type=int, default=None)
    parser.add_argument("--kills", type=int, default=None)
    parser.add_argument("--restarts", type=int, default=None, help="of the server")
    parser.add_argument("--broker", choices=("redis", "sqlite", "postgres", "rabbitmq"), default="redis")
    parser.add_argument("--folder", type=Path, default=None, help="keep diaries and logs here")
    given = parser.parse_args(arguments)
    seconds = given.minutes * 60
    options = Options(
        seconds=seconds,
        seed=secrets.randbelow(10**6) if given.seed is None else given.seed,
        tasks=int(seconds * 160) if given.tasks is None else given.tasks,
        kills=int(seconds * 1.7) if given.kills is None else given.kills,
        restarts=max(1, int(seconds / 30)) if given.restarts is None else given.restarts,
        broker=given.broker,
        drain=max(60.0, seconds),
    )
    print(f"chaos with seed {options.seed}: {options.tasks} tasks, {options.kills} kills", flush=True)
    started = time.monotonic()
    if given.folder is not None:
        given.folder.mkdir(parents=True)
        verdict = run(options, given.folder)
    else:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            verdict = run(options, Path(folder))
    print(report(options, verdict, time.monotonic() - started))
    return 0 if verdict.is_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
