"""The census of the standard library: what `make demo` runs, on each broker, against a loop without a queue."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from examples.census.summary import summarise
from examples.census.tasks import count
from tests.processes import bare_environ

ROOT = Path(__file__).parents[2]
LIMIT = 150


def census(*flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end; what it printed must show that it went well."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.census", *flags], env=bare_environ(**environ), cwd=ROOT, check=False,
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def plain_tables() -> str:
    """What a loop without a queue prints."""
    return census("--plain", "--limit", str(LIMIT)).stdout


def test_the_demo_prints_the_tables_of_a_plain_loop(plain_tables: str, tmp_path: Path) -> None:
    done = census("--limit", str(LIMIT), TMPDIR=str(tmp_path))
    assert done.stdout == plain_tables
    assert "Largest modules" in plain_tables
    assert list(tmp_path.iterdir()) == [], "the demo left files behind"


def test_the_demo_prints_the_same_on_redis(plain_tables: str, redis_url: str) -> None:
    assert census("--broker", redis_url, "--limit", str(LIMIT)).stdout == plain_tables


def test_the_demo_prints_the_same_on_postgresql(plain_tables: str, postgres_place: str) -> None:
    assert census("--broker", postgres_place, "--limit", str(LIMIT)).stdout == plain_tables


def test_the_broker_may_be_named_in_the_environment(plain_tables: str, redis_url: str) -> None:
    done = census("--limit", str(LIMIT), CELERIAC_BROKER_URL=redis_url)
    assert done.stdout == plain_tables


def test_the_file_that_does_not_parse_is_a_failed_task_with_its_traceback() -> None:
    done = census("--limit", "5")
    table = done.stdout.partition("Failed tasks")[2]
    assert "unparsable.py.txt" in table
    assert "SyntaxError" in table
    traceback = done.stderr.partition("Traceback (most recent call last):")[2]
    assert ", in count\n" in traceback
    assert "SyntaxError: '(' was never closed" in traceback


def test_the_demo_fails_when_its_worker_dies() -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "examples.census"], env=bare_environ(), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with demo:
        assert demo.stderr is not None
        first = demo.stderr.readline()
        os.kill(int(first.split()[-1]), signal.SIGKILL)
        _, told = demo.communicate(timeout=50)
    assert demo.returncode == 1
    assert "the worker has ended with exit code -9" in told


def test_a_worker_from_another_terminal_does_the_same(plain_tables: str, tmp_path: Path) -> None:
    environ = bare_environ(CELERIAC_BROKER_URL=f"sqlite:///{tmp_path}/by-hand.sqlite")
    program = [sys.executable, "-m", "celeriac", "-A", "examples.census.tasks", "worker", "-c", "2"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        worker = subprocess.Popen(program, env=environ, cwd=ROOT, stdout=output, stderr=output)
    try:
        url = environ["CELERIAC_BROKER_URL"]
        done = census("--no-worker", "--limit", str(LIMIT), CELERIAC_BROKER_URL=url)
    finally:
        worker.terminate()
        code = worker.wait(30)
    assert done.stdout == plain_tables
    assert code == 0, log.read_text()


def test_the_order_of_completion_does_not_change_the_tables() -> None:
    names = ["tasks.py", "summary.py", "__main__.py"]
    counts = {name: count(str(ROOT / "examples/census" / name)) for name in names}
    failures: dict[str, BaseException] = {"b": SyntaxError("two"), "a": SyntaxError("one")}
    expected = summarise(counts, failures)
    for _ in range(5):
        random.shuffle(names)
        again = {name: counts[name] for name in names}
        assert summarise(again, dict(reversed(failures.items()))) == expected
