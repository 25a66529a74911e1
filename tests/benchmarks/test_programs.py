"""Benchmarks start, and what they count is what was sent."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

import chart
from report import Findings, short, table
from servers import on_redis
from system import System
from tally import Journal, Tally
from tests.servers import MISSING
from tests.shape.source import ROOT

FOLDER = ROOT / "benchmarks"
PROGRAMS = sorted(
    file for file in FOLDER.glob("*.py") if 'if __name__ == "__main__":' in file.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_it_says_what_it_is_for(program: Path) -> None:
    done = subprocess.run([sys.executable, program, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 100


@pytest.mark.parametrize("name", sorted(file.stem for file in (FOLDER / "peers").glob("[!_]*.py")))
def test_every_system_says_what_to_install(name: str) -> None:
    assert (FOLDER / "requirements" / f"{name}.txt").read_text(encoding="utf-8").strip()


# -- counting -------------------------------------------------------------------------------------------------


def _add(path: str, times: int) -> None:
    tally = Tally(path)
    threads = [threading.Thread(target=lambda: [tally.add() for _ in range(times)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_tally_counts_every_thread_of_every_process(tmp_path: Path) -> None:
    path = str(tmp_path / "tally")
    tally = Tally(path)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add, args=(path, 5000)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert tally.total() == 3 * 4 * 5000
    tally.clear()
    assert tally.total() == 0


def test_a_process_that_was_forked_does_not_count_in_its_parents_cell(tmp_path: Path) -> None:
    tally = Tally(str(tmp_path / "tally"))
    tally.add()
    if (pid := os.fork()) == 0:
        tally.add()
        os._exit(0)
    os.waitpid(pid, 0)
    tally.add()
    assert tally.total() == 3


def test_a_journal_keeps_every_entry_whoever_writes_it(tmp_path: Path) -> None:
    journal, other = Journal(str(tmp_path / "journal")), Journal(str(tmp_path / "journal"))
    journal.write(1.5)
    other.write(2.5)
    assert len(journal) == 2
    assert [(entry.pid, entry.sent) for entry in journal.entries()] == [
        (os.getpid(), 1.5),
        (os.getpid(), 2.5),
    ]


# -- Celeriac itself, as it is measured -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def celeriac(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    if not (shutil.which("redis-server") or shutil.which("valkey-server")):
        pytest.skip(MISSING)
    with on_redis() as server:
        yield System("celeriac", sys.executable, server, tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("shape", ["one", "two", "slots"])
def test_as_many_tasks_are_counted_as_were_sent(celeriac: System, shape: str) -> None:
    celeriac.clear()
    sent = celeriac.ask("fill", "scrape", 500)
    with celeriac.start(shape) as worker:
        worker.wait_for(lambda: celeriac.tally.total() >= sent, 30, "all tasks")
        # Behind the others, so that a task that ran twice would have been counted.
        celeriac.ask("fill", "stamp", 1)
        worker.wait_for(lambda: len(celeriac.journal) == 1, 30, "the last task")
        assert celeriac.tally.total() == sent == 500


@pytest.mark.parametrize("how", ["one", "bulk"])
def test_sending_sends_exactly_so_many(celeriac: System, how: str) -> None:
    celeriac.clear()
    assert celeriac.ask(how, 100) > 0
    with celeriac.start("one") as worker:
        worker.wait_for(lambda: celeriac.tally.total() >= 100, 30, "all tasks")
        celeriac.ask("fill", "stamp", 1)
        worker.wait_for(lambda: len(celeriac.journal) == 1, 30, "the last task")
        assert celeriac.tally.total() == 100


# -- reporting ------------------------------------------------------------------------------------------------


def _findings() -> Findings:
    findings = Findings(versions={"celery": "5.7.0"}, facts={"memory_tasks": 100})
    for figure in (1.0, 90.0, 100.0):
        findings.add("celeriac", {"waiting": figure})
    findings.add("celery", {"waiting": 900.0, "used_after": 50.0})
    findings.add("huey", {"waiting": 180.0})
    findings.add("bare", {"waiting": 45.0})
    findings.excuse("rq", ["waiting"], "away")
    return findings


def test_the_table_has_medians_ratios_and_reasons() -> None:
    text = table(_findings(), ["celeriac", "celery", "rq", "huey", "bare"])
    row = next(line for line in text.splitlines() if line.startswith("bytes of Redis, waiting"))
    assert row.split()[5:] == [
        "90.0",
        "900",
        "-",
        "180",
        "45.0",
        "0.100",
        "0.500",
        "huey",
        "2.00",
        "ok",
        "<=",
        "110",
    ]
    assert "- rq: away (bytes of Redis, waiting task)" in text
    assert "celery did 50, for want of time" in text


def test_findings_survive_json() -> None:
    findings = _findings()
    assert Findings.from_json(findings.as_json()) == findings


def test_the_chart_is_a_picture() -> None:
    picture = ElementTree.fromstring(chart.draw(_findings(), ["celeriac", "celery", "rq", "huey", "bare"]))
    space = "{http://www.w3.org/2000/svg}"
    widths = {rect.get("class"): float(rect.get("width", "")) for rect in picture.iter(f"{space}rect")}
    assert widths["ours"] > widths["bare"] > 0


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (None, "-"),
        (0.0402, "0.0402"),
        (1.127, "1.13"),
        (67.41, "67.4"),
        (1234.0, "1.23k"),
        (481381.0, "481k"),
    ],
)
def test_figures_have_three_digits_that_count(figure: float | None, text: str) -> None:
    assert short(figure) == text
