"""Start a worker: processes that take tasks from queues and run them.

    celeriac -A proj worker -l INFO
    celeriac -A proj worker -Q mail,reports -c 4 --max-memory-per-child 400000
    celeriac -A proj worker -P threads -c 100 --log-format json
    celeriac -A proj worker --health 127.0.0.1:8081

Settings may follow the options: worker.prefetch_multiplier=1 task_acks_late=no
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import platform
import socket
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from celeriac import logs, machine, plugins, pools, setting_sources, wire
from celeriac.cli import parsing
from celeriac.exceptions import ImproperlyConfigured
from celeriac.log_output import JSON
from celeriac.settings import SETTINGS
from celeriac.supervisor import health
from celeriac.urls import mask_url
from celeriac.wire import WorkerOptions

#: The C library gives each thread a heap of its own, up to eight for each core: a child with twenty slots grew by 4 MB
#: more within 100,000 tasks, and went on. All processes of a worker inherit this, unless the variable is set.
_ALLOCATION: Final = {"MALLOC_ARENA_MAX": "2"}
#: Settings that have a flag here. The flag, its meaning and its check are the setting's row.
_SETTING_FLAGS: Final = (
    "worker_prefetch_multiplier", "worker_lease", "worker_shutdown_timeout", "task_time_limit",
    "task_soft_time_limit", "worker_max_tasks_per_child", "worker_max_memory_per_child",
    "worker_kill_above_memory", "worker_max_age_per_child", "worker_max_age_variance",
)  # fmt: skip

_CHATTER: Final = "workers never talk to each other"
#: Flags of Celery's that have nothing to switch on or off here: accepted, and `-l debug` says why.
_WITHOUT_EFFECT: Final[Mapping[str, tuple[str, bool, str]]] = {
    "without_gossip": ("--without-gossip", False, _CHATTER),
    "without_mingle": ("--without-mingle", False, _CHATTER),
    "without_heartbeat": ("--without-heartbeat", False, "leases take the place of heartbeats"),
    "heartbeat_interval": ("--heartbeat-interval", True, "leases take the place of heartbeats: see --lease"),
    "disable_prefetch": ("--disable-prefetch", False, "prefetching adapts to measured run times by itself"),
    "optimization": ("-O --optimization", True, "tasks go to free slots only, as with -O fair"),
    "statedb": ("-S --statedb", True, "a worker keeps no state of its own: the broker does"),
    "pool_start_method": ("--pool-start-method", True, "children are forked from a warm template"),
}
#: Flags of features that are not here: an error that says what to do instead.
_NOT_HERE: Final[Mapping[str, tuple[str, bool, str]]] = {
    "beat": ("-B --beat", False, "is not available yet: run one `celeriac beat` when it is"),
    "schedule": ("-s --schedule-filename --schedule", True, "belongs to beat, which is not available yet"),
    "scheduler": ("--scheduler", True, "belongs to beat, which is not available yet"),
    "detach": ("-D --detach", False, "is not offered: let systemd, a container or `nohup ... &` keep it"),
    "uid": ("--uid", True, "is not offered: start the worker as that user (systemd: User=)"),
    "gid": ("--gid", True, "is not offered: start the worker in that group (systemd: Group=)"),
    "umask": ("--umask", True, "is not offered: set it before the start (systemd: UMask=)"),
    "executable": ("--executable", True, "is not offered: start the worker with that Python"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `celeriac worker`."""
    add = parser.add_argument
    add("settings", nargs="*", metavar="SETTING=VALUE", help="settings, stronger than the application's own")
    add(
        "-n",
        "--hostname",
        default="",
        help="the worker's name; %%h is the host, %%n its name, %%d its domain",
    )
    _add_queues(parser)
    add("-I", "--include", type=parsing.names, default=(), metavar="MODULES", help="more modules to import")
    add("--purge", "--discard", action="store_true", help="delete what waits in the queues first")
    add("-P", "--pool", help=f"how tasks run: {', '.join(pools.POOLS)} (default: prefork)")
    add(
        "-c", "--concurrency", type=_concurrency, help="how many tasks run at once, or auto: one for each CPU"
    )
    add(
        "--autoscale",
        type=_autoscale,
        metavar="MAX,MIN",
        help="how many tasks run at once, at most and at least: processes come and go, with -c slots in each",
    )
    add("--processes", type=parsing.read_setting("worker_processes"), help=SETTINGS["worker_processes"].help)
    for name in _SETTING_FLAGS:
        row = SETTINGS[name]
        read = parsing.read_setting(name)
        add(str(row.flag), dest=name, type=read, metavar=row.kind.name.split()[0].upper(), help=row.help)
    add("-E", "--task-events", "--events", action="store_true", help="publish what happens to tasks")
    levels = parsing.one_of(*logs.LEVELS)
    add("-l", "--loglevel", type=levels, default="WARNING", metavar="LEVEL", help=", ".join(logs.LEVELS))
    add("--log-format", type=parsing.one_of("text", "json"), metavar="FORMAT", help="text, or json lines")
    add("-f", "--logfile", metavar="FILE", help="where log lines go; default: the error output")
    add("--pidfile", metavar="FILE", help="keep the worker's process id there while it runs")
    add(
        "--health",
        metavar="HOST:PORT",
        help="answer GET /live and /ready there, for who probes a worker's health",
    )
    add(
        "--show-imports",
        action="store_true",
        help="print what each task module costs in memory and time, and start no worker",
    )
    for table, text in ((_WITHOUT_EFFECT, "accepted; no effect: "), (_NOT_HERE, "")):
        for dest, (flags, takes_value, why) in table.items():
            how: dict[str, Any] = {"metavar": "VALUE"} if takes_value else {"action": "store_true"}
            add(*flags.split(), dest=dest, help=f"{text}{why}", **how)


def _add_queues(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "-Q",
        "--queues",
        type=parsing.weighted,
        default={},
        metavar="NAMES",
        help="queues to take from; with weights, as in high:3,low:1, each has its share while all have messages",
    )
    add(
        "--queue-order",
        type=parsing.one_of(*wire.QUEUE_ORDERS),
        metavar="ORDER",
        help="how to look into the queues: in the order of -Q strictly (priority) or of their names (sorted), or "
        "with the same share for each (round_robin)",
    )
    add("-X", "--exclude-queues", type=parsing.names, default=(), metavar="NAMES", help="but not from these")


def run(args: argparse.Namespace) -> int:
    """Run a worker until it is told to stop."""
    for dest, (flags, _, why) in _NOT_HERE.items():
        if getattr(args, dest):
            raise ImproperlyConfigured(f"{flags.split()[0]} {why}")
    if not args.app:
        raise ImproperlyConfigured("which application? Name it with -A proj, or in CELERIAC_APP")
    options = options_of(args)
    if args.show_imports:
        code: int = plugins.load("celeriac.cli.imports:run")(options, not args.no_color)
        return code
    try:
        logs.start(options)
    except OSError as exc:
        text = f"the log file {options.logfile!r} cannot be opened: {exc.strerror}"
        raise parsing.CommandFailed(text, wire.EXIT_CANNOT_CREATE) from None
    listener = _listen(args.health)
    for dest, (flags, _, why) in _WITHOUT_EFFECT.items():
        if getattr(args, dest):
            logging.getLogger("celeriac.worker").debug("%s has no effect: %s", flags.split()[-1], why)
    if args.purge and (code := _purge(args, options)):
        return code
    if args.pidfile:
        _claim(args.pidfile)
    return _become_supervisor(options, listener)


def _listen(address: str | None) -> socket.socket | None:
    """Listen for health probes before anything is begun, so that a worker that cannot leaves no trace."""
    if address is None:
        return None
    try:
        return health.listen(address)
    except OSError as exc:
        if exc.errno == errno.EADDRNOTAVAIL:
            raise ImproperlyConfigured(f"--health {address}: that is no address of this machine") from None
        text = f"--health {address}: nothing can listen there: {exc.strerror}"
        raise parsing.CommandFailed(text, wire.EXIT_CANNOT_CREATE) from None


def _become_supervisor(options: WorkerOptions, listener: socket.socket | None) -> int:
    """Go on as `python -m celeriac.supervisor`, under the same process id: what this command imported is left behind.

    Returns only where that fails.
    """
    if listener is not None:
        listener.set_inheritable(True)
        options = msgspec.structs.replace(options, health_fd=listener.fileno())
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(wire.pack(options))
    sys.stdout.flush()
    sys.stderr.flush()
    shown = [mask_url(word) for word in sys.argv[1:]]
    command = [sys.executable, "-m", "celeriac.supervisor", str(reader), *shown]
    os.execve(sys.executable, command, _ALLOCATION | os.environ)
    return wire.EXIT_FAILURE


def options_of(args: argparse.Namespace) -> WorkerOptions:
    """What the command line asks of the worker.

    Raises:
        ImproperlyConfigured: no such pool, or a pair that is no setting.
    """
    pool = args.pool
    if pool is not None:
        pools.spec(pool)
    settings = _settings(args)
    if args.autoscale and (args.processes or "worker_processes" in settings):
        raise ImproperlyConfigured(
            "--autoscale and --processes: the first says how many processes there are. Leave the other out"
        )
    weights = {queue: weight for queue, weight in args.queues.items() if weight}
    if weights and args.queue_order:
        raise ImproperlyConfigured(
            "--queue-order and the weights of -Q: both say how to look into the queues. Leave one out"
        )
    return WorkerOptions(
        app=args.app,
        queues=tuple(args.queues),
        weights=weights,
        queue_order=args.queue_order or "",
        exclude=args.exclude_queues,
        include=args.include,
        pidfile=args.pidfile,
        pool=pool,
        concurrency=args.concurrency,
        processes=args.processes,
        autoscale=args.autoscale,
        hostname=node_name(args.hostname),
        loglevel=args.loglevel,
        logfile=args.logfile,
        quiet=args.quiet,
        boot_timeout=_boot_timeout(settings),
        settings=settings,
    )


def _boot_timeout(settings: Mapping[str, Any]) -> float:
    """How long the application's import may take: it cannot say so itself, as it is not imported yet."""
    row = SETTINGS["worker_proc_alive_timeout"]
    given = settings.get(row.name)
    if given is None and (text := os.environ.get(row.variable)):
        given = row.read(text, f"environment variable {row.variable}")
    timeout: float = row.default if given is None else given
    return timeout


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    given = parsing.general_settings(args)
    pairs = setting_sources.from_pairs([pair for pair in args.settings if pair != "--"], "worker")
    given |= {name: pair.value for name, pair in pairs.items() if name in SETTINGS}
    given |= {name: value for name in _SETTING_FLAGS if (value := getattr(args, name)) is not None}
    if args.task_events:
        given["worker_send_task_events"] = True
    if args.no_color:
        given["worker_log_color"] = False
    if args.log_format == "json":
        given["worker_log_format"] = JSON
    elif args.log_format == "text":
        given.setdefault("worker_log_format", SETTINGS["worker_log_format"].default)
    return given


def node_name(hostname: str) -> str:
    """The worker's whole name, as Celery makes it: `w1@%h` is `w1@host`, `w1` is `celery@w1`."""
    name, at, host = hostname.rpartition("@")
    whole = f"{name or 'celery'}@{host or platform.node()}" if at or host else f"celery@{platform.node()}"
    return logs.expand(whole, f"{platform.node().partition('.')[0]}@{platform.node()}")


def _concurrency(text: str) -> int:
    if text == "auto":
        return machine.usable_cpus()
    row = SETTINGS["worker_concurrency"]
    number: int = row.read(text, f"command line flag {row.flag}")
    return number


def _autoscale(text: str) -> tuple[int, int]:
    """Two numbers in either order, or one: the most. Answers with the least first."""
    words = text.split(",")
    if len(words) > 2 or not all(word.strip().isdecimal() for word in words) or not max(map(int, words)):
        raise ImproperlyConfigured(
            f"--autoscale {text}: give the most and the least tasks at once, as in 10,3, or the most alone: 10"
        )
    numbers = sorted(map(int, words))
    return (numbers[0] if len(numbers) == 2 else 0), numbers[-1]


def _purge(args: argparse.Namespace, options: WorkerOptions) -> int:
    """Delete what waits, in a process of its own: this one stays small and imports no application."""
    command = [sys.executable, "-m", "celeriac", "purge", "-f", "-q"]
    for flag, value in (("-A", options.app), ("-b", args.broker)):
        command += [flag, value] if value else []
    for flag, queues in (("-Q", options.queues), ("-X", options.exclude)):
        command += [flag, ",".join(queues)] if queues else []
    pid = os.posix_spawn(sys.executable, command, os.environ)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _claim(path: str) -> None:
    """Write our process id there, over that of a process that is gone."""
    try:
        _forget_the_dead(path)
        with open(path, "x", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as exc:
        text = f"the pidfile {path!r} cannot be made: {exc.strerror}"
        if isinstance(exc, FileExistsError):
            text = f"the pidfile {path!r} belongs to a process that runs: is this worker started already?"
        raise parsing.CommandFailed(text, wire.EXIT_CANNOT_CREATE) from None


def _forget_the_dead(path: str) -> None:
    try:
        with open(path, encoding="ascii") as file:
            pid = int(file.read())
        os.kill(pid, 0)
    except (ProcessLookupError, ValueError):
        os.unlink(path)
    except (FileNotFoundError, PermissionError):
        return
