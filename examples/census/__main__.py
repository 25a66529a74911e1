"""The census: sends one task for each source file of the standard library, as a group, and sums up the results.

    python -m examples.census                                       starts a worker of its own; needs no server
    python -m examples.census --broker redis://localhost:6379/0     the same on Redis
    python -m examples.census --no-worker                           with a worker started in another terminal
    python -m examples.census --plain                               a loop without a queue: prints the same tables

The tables go to the output and everything else to the error output, so that two runs can be compared. The exit code
is 0 when nothing failed but files that do not parse.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from examples.census.summary import Table, summarise
from examples.census.tasks import Count, app, count
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from celeriac import group, states
from celeriac.exceptions import CeleriacError

HERE = Path(__file__).parent
#: A file that does not parse, in case that this Python's library has none.
BROKEN = HERE / "unparsable.py.txt"
#: Seconds without any result after which something is said, or looked at.
PATIENCE = 5.0

told = Console(stderr=True, highlight=False, soft_wrap=True)


class DemoFailed(Exception):
    """The census cannot go on; the text says why."""


class Census:
    """The files by name, and what is known of them so far."""

    def __init__(self, limit: int | None) -> None:
        library = Path(sysconfig.get_path("stdlib"))
        found = (path for path in library.rglob("*.py") if not _is_installed(path.relative_to(library)))
        self.files = {path.relative_to(library).as_posix(): str(path) for path in sorted(found)[:limit]}
        self.files[BROKEN.name] = str(BROKEN)
        self.counts: dict[str, Count] = {}
        self.failures: dict[str, BaseException] = {}
        self.tracebacks: dict[str, str] = {}

    @property
    def done(self) -> int:
        return len(self.counts) + len(self.failures)

    def exit_code(self) -> int:
        """0: every file is there, and those that failed do not parse, the broken one among them."""
        parses = [name for name, exc in self.failures.items() if not isinstance(exc, SyntaxError)]
        return int(bool(parses) or BROKEN.name not in self.failures or self.done < len(self.files))


def _is_installed(path: Path) -> bool:
    """Whether a file under the library is not of it."""
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


def main() -> int:
    args = _arguments()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    # An orderly end for the worker too, where somebody ends us.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    census = Census(args.limit)
    began = time.monotonic()
    try:
        if args.plain:
            count_plainly(census)
        else:
            with broker_url(args) as url, contextlib.ExitStack() as stack:
                app.conf.broker_url = url
                stack.callback(app.close)
                worker = None if args.no_worker else stack.enter_context(running_worker(url))
                count_by_tasks(census, worker)
    except (DemoFailed, CeleriacError) as exc:
        told.print(f"census: {exc}", style="bold red", markup=False)
        return 1
    except KeyboardInterrupt:
        told.print("census: interrupted")
        return 130
    seconds = time.monotonic() - began
    told.print(f"census: {census.done:,} files in {seconds:.1f} s")
    show(summarise(census.counts, census.failures))
    if not args.plain:
        tell_failure(census)
    if not (args.plain or args.no_worker):
        tell_how_by_hand()
    return census.exit_code()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.census", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add(
        "--broker",
        metavar="URL",
        help="where messages are kept [CELERIAC_BROKER_URL]; default: a new SQLite file",
    )
    add("--limit", type=int, metavar="N", help="only the first N files")
    add("--no-worker", action="store_true", help="leave the work to a worker that is started elsewhere")
    add("--plain", action="store_true", help="use no queue")
    return parser.parse_args()


def count_plainly(census: Census) -> None:
    """Call the task's function for each file, here."""
    for name, path in census.files.items():
        try:
            census.counts[name] = count(path)
        except (SyntaxError, OSError) as exc:
            census.failures[name] = exc


def count_by_tasks(census: Census, worker: subprocess.Popen[bytes] | None) -> None:
    """Send a task for each file, and wait for all results. Raises: DemoFailed: the worker has ended."""
    sent = group(count.s(path) for path in census.files.values()).delay()
    names = {result.id: name for result, name in zip(sent.results, census.files, strict=True)}
    with progress(len(names)) as report:
        while (before := census.done) < len(names):
            try:
                for task_id, record in sent.iter_native(timeout=PATIENCE if worker is None else 1.0):
                    note(census, names[task_id], record)
                    report(census.done)
            except TimeoutError:
                check(worker, census.done > before)
    sent.forget()


def note(census: Census, name: str, record: dict[str, Any]) -> None:
    """Take over one result. One that is known already may come again."""
    if record["status"] == states.SUCCESS:
        census.counts[name] = record["result"]
    else:
        census.failures[name] = record["result"]
        census.tracebacks[name] = record["traceback"] or ""


def check(worker: subprocess.Popen[bytes] | None, goes_on: bool) -> None:
    """Look at the worker, after some seconds. Raises: DemoFailed: it has ended."""
    if worker is None:
        if not goes_on:
            told.print(f"census: no result for {PATIENCE:g} s. Is a worker running? In another terminal:")
            told.print(f"  {command('celeriac')} -A examples.census.tasks worker -c 2", markup=False)
    elif worker.poll() is not None:
        raise DemoFailed(f"the worker has ended with exit code {worker.returncode} before the work was done")


@contextlib.contextmanager
def broker_url(args: argparse.Namespace) -> Generator[str]:
    """The URL that was given, else that of a file which lasts as long as this block."""
    given = args.broker or os.environ.get("CELERIAC_BROKER_URL")
    if given or args.no_worker:
        yield given or app.conf.broker_url
    else:
        with tempfile.TemporaryDirectory(prefix="census-") as folder:
            yield f"sqlite:///{folder}/census.sqlite"


@contextlib.contextmanager
def running_worker(url: str) -> Generator[subprocess.Popen[bytes]]:
    """A worker with two children. Stops it in order at the end; where the block fails, shows what it said."""
    words = ["-m", "celeriac", "-A", "examples.census.tasks", "worker", "-c", "2", "-l", "WARNING"]
    with tempfile.TemporaryFile() as log:
        worker = subprocess.Popen(
            [sys.executable, *words], env={**os.environ, "CELERIAC_BROKER_URL": url},
            cwd=HERE.parent.parent, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        told.print(f"census: started a worker with two children, process {worker.pid}")
        try:
            yield worker
        except DemoFailed:
            log.seek(0)
            told.print(log.read().decode(errors="replace")[-4000:], markup=False)
            raise
        finally:
            worker.terminate()
            code = worker.wait()
        if code:
            raise DemoFailed(f"the worker did not stop in order: exit code {code}")


@contextlib.contextmanager
def progress(total: int) -> Generator[Callable[[int], None]]:
    """A bar on a terminal, a line for each tenth elsewhere; yields what takes the number that is done."""
    if told.is_terminal:
        columns = (TextColumn("census"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=told) as bar:
            row = bar.add_task("census", total=total)

            def move(done: int) -> None:
                bar.update(row, completed=done)

            yield move
        return
    tenths = 0

    def line(done: int) -> None:
        nonlocal tenths
        if done * 10 // total > tenths:
            tenths = done * 10 // total
            told.print(f"census: {done:,} of {total:,} files")

    yield line


def show(tables: list[Table]) -> None:
    """Print the tables, wide where there is no terminal that says how wide."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    for table in tables:
        grid = RichTable(title=table.title, box=SIMPLE_HEAD, title_justify="left", title_style="bold")
        for column in table.columns:
            numeric = column.endswith(" #")
            grid.add_column(
                column.removesuffix(" #"), justify="right" if numeric else "left", overflow="fold"
            )
        for row in table.rows:
            grid.add_row(*map(Text, row))
        console.print(grid)


def tell_failure(census: Census) -> None:
    """Print the traceback of the file that is there to fail, and of every failure that is none of the file's."""
    for name, exc in sorted(census.failures.items()):
        if name == BROKEN.name or not isinstance(exc, SyntaxError):
            told.print(f"The failed task of {name}, as the worker reports it:\n", markup=False)
            told.print(census.tracebacks[name], markup=False)


def tell_how_by_hand() -> None:
    """Print the commands that do the same in two terminals, as they can be typed here."""
    lines = (
        "The same by hand, without a server (messages go to celeriac.sqlite in this directory):",
        "",
        "  in one terminal:",
        f"    {command('celeriac')} -A examples.census.tasks worker -c 2",
        "  in another:",
        f"    {command('python')} -m examples.census --no-worker",
        "  and, to compare, without a queue:",
        f"    {command('python')} -m examples.census --plain",
        "",
        "On Redis, first type this in both terminals:  export CELERIAC_BROKER_URL=redis://localhost:6379/0",
    )
    told.print("\n".join(lines), markup=False)


def command(name: str) -> str:
    """A program of this Python's environment, as it can be called from here."""
    path = Path(sys.executable).parent / name
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


if __name__ == "__main__":
    sys.exit(main())
