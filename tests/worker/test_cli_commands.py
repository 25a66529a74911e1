"""Commands as people run them: real processes, on an SQLite file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests import postgres, processes

from celeriac import brokers, message, results, states, stored
from celeriac.brokers.contract import Broker, Bury, Outgoing, Record, Settlement
from celeriac.message import Message, Options
from celeriac.stored import Stored

PROJECT = """
from celeriac.app import Celeriac

app = Celeriac("proj", broker="sqlite:///queues.sqlite", task_default_queue="mail")

@app.task(ignore_result=False)
def add(x, y):
    return x + y
"""


class Shop:
    """A directory with a project in it, and its broker."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "proj.py").write_text(PROJECT)
        self.broker: Broker = brokers.connect(f"sqlite:///{path}/queues.sqlite")

    def run(self, *argv: str, stdin: str = "", code: int = 0, **environ: str) -> str:
        """What the command printed, standard output only; its exit code must be that."""
        done = subprocess.run(
            [sys.executable, "-m", "celeriac", *argv], cwd=self.path, input=stdin, capture_output=True, text=True,
            timeout=30, check=False, env={**self.environ(), **environ},
        )  # fmt: skip
        assert done.returncode == code, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        self.told = done.stderr
        return done.stdout

    @staticmethod
    def environ() -> dict[str, str]:
        return processes.bare_environ(NO_COLOR="1")

    def send(
        self, task: str = "proj.add", queue: str = "mail", of_message: Any = None, **options: float
    ) -> str:
        sent = Message(message.new_key(), task, (1, 2), {"to": "ann"}, Options(**of_message or {}))
        self.broker.send([Outgoing(queue, message.encode(sent), **options)], 5.0)
        return sent.id

    def bury(
        self, count: int, reason: str = "crashed", detail: str = "", task: str = "proj.add", **options: Any
    ) -> list[str]:
        """So many dead letters; their messages have these options."""
        ids = [self.send(task, of_message=options) for _ in range(count)]
        consumer = self.broker.consumer(["mail"], "undertaker", lease=30.0, max_deliveries=3)
        buried = 0
        while buried < count:
            taken = consumer.take(500, 5.0)
            consumer.settle([Settlement(delivery, Bury(reason, detail)) for delivery in taken])
            buried += len(taken)
        consumer.close()
        return ids


@pytest.fixture
def shop(tmp_path):
    shop = Shop(tmp_path)
    yield shop
    shop.broker.close()


def test_call_sends_and_prints_the_id(shop):
    task_id = shop.run(
        "-A", "proj", "call", "proj.add", "-a", "[2, 3]", "-k", '{"z": 1}', "--queue", "slow"
    ).strip()
    consumer = shop.broker.consumer(["slow"], "me", lease=30.0, max_deliveries=3)
    (delivery,) = consumer.take(1, 5.0)
    call = message.decode(delivery.data)
    consumer.close()
    assert (call.id, call.task, call.args, call.kwargs) == (task_id, "proj.add", [2, 3], {"z": 1})


def test_call_with_a_countdown_waits_at_the_broker(shop):
    shop.run("call", "proj.add", "-A", "proj", "--countdown", "600")
    assert shop.broker.stats("mail").delayed == 1


def test_call_says_in_a_sentence_that_nothing_is_bound_to_an_exchange(shop):
    shop.run("call", "proj.add", "-A", "proj", "--exchange", "x", code=1)
    assert shop.told.startswith("celeriac: ")
    assert "no queue of task_queues is bound to it" in shop.told
    assert shop.told.count("\n") == 1


def test_result_shows_the_return_value(shop):
    store = results.connect(f"sqlite:///{shop.path}/queues.sqlite")
    key = message.new_key()
    store.put([Record(key, stored.encode(Stored("SUCCESS", {"sum": 5})))])
    store.close()
    assert shop.run("-A", "proj", "result", message.id_of(key)) == "{'sum': 5}\n"
    assert shop.run("-A", "proj", "result", "--timeout", "5", message.id_of(key)) == "{'sum': 5}\n"


def test_result_shows_an_error_or_its_traceback(shop):
    store = results.connect(f"sqlite:///{shop.path}/queues.sqlite")
    key = message.new_key()
    store.put([Record(key, stored.encode(stored.failure_of(ValueError("no"), "there it was\n")))])
    store.close()
    assert shop.run("-A", "proj", "result", message.id_of(key), code=1) == ""
    assert shop.told == "celeriac: FAILURE: ValueError: no\n"
    assert shop.run("-A", "proj", "result", "--traceback", message.id_of(key), code=1) == "there it was\n"


def test_result_of_an_unknown_task_does_not_wait(shop):
    shop.run("-A", "proj", "result", message.id_of(message.new_key()), code=1)
    assert "PENDING" in shop.told
    shop.run("-A", "proj", "result", "--timeout", "0.1", message.id_of(message.new_key()), code=1)
    assert "within 0.1 seconds" in shop.told


def test_queues_counts_what_is_where(shop):
    shop.bury(2)
    shop.send()
    shop.send(due_at=time.time() + 600)
    shop.send(queue="slow")
    lines = shop.run("-A", "proj", "queues").splitlines()
    assert lines[0].split() == ["queue", "ready", "scheduled", "running", "dead", "evicted", "oldest"]
    assert lines[1].split()[:6] == ["mail", "1", "1", "0", "2", "0"]
    told = json.loads(shop.run("-A", "proj", "queues", "--json", "slow"))
    assert [(one["queue"], one["ready"], one["paused"]) for one in told] == [("slow", 1, False)]


def test_evicted_dead_letters_are_shown(shop):
    shop.bury(3)
    shop.broker.prune_dead("mail", 1, None)
    [told] = json.loads(shop.run("-A", "proj", "queues", "--json"))
    assert (told["dead"], told["evicted"]) == (1, 2)
    shop.run("-A", "proj", "dead", "list")
    assert "2 older dead letters of mail were deleted" in shop.told


def test_queues_of_a_misspelt_name_names_the_nearest(shop):
    shop.run("-A", "proj", "queues", "mial", code=64)
    assert "Did you mean 'mail'?" in shop.told


def test_queues_needs_no_application(shop):
    shop.send()
    told = shop.run("-b", "sqlite:///queues.sqlite", "queues", "--json", "mail")
    assert json.loads(told)[0]["ready"] == 1
    shop.run("queues", "mail", CELERIAC_BROKER_URL="sqlite:///queues.sqlite")
    shop.run("queues", code=64)
    assert not (shop.path / "celeriac.sqlite").exists()


def test_queues_watches_until_interrupted(shop):
    shop.send()
    with subprocess.Popen(
        [sys.executable, "-m", "celeriac", "-A", "proj", "queues", "--watch", "0.1"],
        cwd=shop.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=shop.environ(),
        # Who starts the tests in the background of a shell has it ignore this signal, and all its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as watch:  # fmt: skip
        assert watch.stdout is not None
        shown = [watch.stdout.readline() for _ in range(6)]
        watch.send_signal(signal.SIGINT)
        _, told = watch.communicate(timeout=10)
    assert sum(line.startswith("mail") for line in shown) >= 2
    assert (watch.returncode, told) == (130, "")


def test_purge_asks_first(shop):
    shop.send()
    shop.run("-A", "proj", "purge", stdin="no\n", code=1)
    assert "mail (1)" in shop.told
    shop.run("-A", "proj", "purge", stdin="", code=1)
    assert shop.broker.stats("mail").ready == 1
    assert shop.run("-A", "proj", "purge", stdin="yes\n") == "Purged 1 message from 1 known task queue.\n"
    assert shop.broker.stats("mail").ready == 0


def test_purge_takes_the_queues_that_are_named(shop):
    for queue in ("mail", "slow", "fast"):
        shop.send(queue=queue)
    shop.run("-A", "proj", "purge", "-f", "-Q", "slow,fast", "-X", "fast")
    assert [shop.broker.stats(queue).ready for queue in ("mail", "slow", "fast")] == [1, 0, 1]
    assert shop.run("-A", "proj", "purge", "-f", "--all").startswith("Purged 2 messages from 3 ")


def test_purge_of_a_misspelt_queue_is_told(shop):
    shop.send()
    shop.run("-A", "proj", "purge", "-Q", "mial", code=64)
    assert "Did you mean 'mail'?" in shop.told
    assert (
        shop.run("-A", "proj", "purge", "-f", "-Q", "mial") == "Purged 0 messages from 1 known task queue.\n"
    )
    assert "Did you mean 'mail'?" in shop.told


def test_pause_and_resume(shop):
    shop.send()
    assert shop.run("-A", "proj", "pause", "mail") == "mail: paused\n"
    assert shop.broker.stats("mail").paused
    assert "paused" in shop.run("-A", "proj", "queues")
    assert shop.run("-A", "proj", "resume") == "mail: resumed\n"
    assert not shop.broker.stats("mail").paused
    shop.run("-A", "proj", "pause", "mial", code=64)
    shop.run("-A", "proj", "pause", "mial", "--force")
    assert shop.run("-A", "proj", "resume", "mial") == "mial: resumed\n"


def test_dead_letters_are_listed_by_filter(shop):
    first, second = shop.bury(2, "crashed 3 times", "signal 9")
    (third,) = shop.bury(1, "unknown", "no task of that name", task="proj.gone")

    def listed(*filters: str) -> list[str]:
        return [one["id"] for one in json.loads(shop.run("-A", "proj", "dead", "list", "--json", *filters))]

    assert listed() == [first, second, third]
    assert listed("--task", "proj.gone") == listed("--reason", "unkn") == [third]
    assert listed("--error", "SIGNAL 9") == [first, second]
    assert listed("--since", "1h", "--queue", "mail", "--limit", "1") == [first]
    assert listed(second) == [second]
    table = shop.run("-A", "proj", "dead", "list").splitlines()
    assert len(table) == 4
    assert table[3].split()[:4] == [third, "mail", "proj.gone", "unknown"]


def test_a_dead_letter_is_shown_with_its_call(shop):
    (only,) = shop.bury(1, "crashed", "signal 9")
    told = shop.run("-A", "proj", "dead", "show", only)
    for part in (only, "proj.add", "crashed", "signal 9", "[1, 2]", "{'to': 'ann'}"):
        assert part in told
    shop.run("-A", "proj", "dead", "show", message.id_of(message.new_key()), code=1)
    assert shop.told == "celeriac: there is no such dead letter\n"


def test_a_dead_letter_that_is_garbage_is_found_by_the_name_in_the_list(shop):
    shop.broker.send([Outgoing("mail", b"garbage")], 5.0)
    consumer = shop.broker.consumer(["mail"], "undertaker", lease=30.0, max_deliveries=3)
    consumer.settle([Settlement(delivery, Bury("unreadable")) for delivery in consumer.take(1, 5.0)])
    consumer.close()
    (letter,) = json.loads(shop.run("-A", "proj", "dead", "list", "--json"))
    assert "garbage" in shop.run("-A", "proj", "dead", "show", letter["id"])
    assert shop.run("-A", "proj", "dead", "drop", letter["id"]) == "Dropped 1 dead letter.\n"


def test_ids_are_replayed_without_a_question(shop):
    first, _ = shop.bury(2)
    assert shop.run("-A", "proj", "dead", "replay", first) == "Replayed 1 dead letter.\n"
    stats = shop.broker.stats("mail")
    assert (stats.ready, stats.dead) == (1, 1)


@pytest.mark.parametrize("place", ["queues.sqlite", "results.sqlite"])
def test_what_is_replayed_has_failed_no_more_nor_have_the_steps_behind_it(shop, place):
    step = message.new_id()
    (first,) = shop.bury(1, chain=[{"task": "proj.add", "options": {"task_id": step}}])
    store = results.connect(f"sqlite:///{shop.path}/{place}")
    keys = [message.key_of(first), message.key_of(step)]
    store.put([Record(key, stored.encode(Stored(states.FAILURE, ValueError("no"))), 60.0) for key in keys])
    shop.run("-A", "proj", "dead", "replay", first, CELERIAC_RESULT_BACKEND=f"sqlite:///{shop.path}/{place}")
    assert store.get(keys) == {}
    store.close()


def test_a_filter_is_replayed_after_a_question_or_by_force(shop):
    shop.bury(1, "unknown")
    shop.bury(2500, "crashed")
    shop.run("-A", "proj", "dead", "replay", "--reason", "crashed", stdin="n\n", code=1)
    assert "2,500 dead letters" in shop.told
    assert shop.broker.stats("mail").dead == 2501
    assert (
        shop.run("-A", "proj", "dead", "replay", "--reason", "crashed", "-f")
        == "Replayed 2,500 dead letters.\n"
    )
    stats = shop.broker.stats("mail")
    assert (stats.ready, stats.dead) == (2500, 1)


def test_dead_letters_are_dropped(shop):
    shop.bury(3)
    assert shop.run("-A", "proj", "dead", "drop", stdin="yes\n") == "Dropped 3 dead letters.\n"
    assert shop.broker.stats("mail").dead == 0


def test_config_tells_values_and_sources(shop):
    told = shop.run("-A", "proj", "config", "--changed", CELERIAC_TASK_MAX_DELIVERIES="5")
    lines = {line.split()[0]: line for line in told.splitlines()}
    assert set(lines) == {"setting", "broker_url", "task_default_queue", "task_max_deliveries"}
    assert "environment variable CELERIAC_TASK_MAX_DELIVERIES" in lines["task_max_deliveries"]
    every = json.loads(shop.run("-A", "proj", "config", "--json"))
    assert {"setting": "task_acks_late", "value": True, "source": "default"} in every


def test_config_and_report_hide_passwords(shop):
    for command in ("config", "report"):
        told = shop.run(command, "-b", "redis://u:secret@h/0")
        assert "redis://u:********@h/0" in told
        assert "secret" not in told + shop.told


def test_report_tells_versions(shop):
    told = shop.run("-A", "proj", "report")
    for part in (
        "celeriac",
        "msgspec",
        "python",
        "platform",
        "sqlite:///queues.sqlite",
        "task_default_queue",
    ):
        assert part in told


def test_a_worker_purges_in_a_process_of_its_own_and_runs_tasks(shop):
    shop.send(task="proj.unheard_of")
    log = shop.path / "worker.log"
    with subprocess.Popen(
        [
            sys.executable, "-m", "celeriac", "-A", "proj", "worker", "-c", "1", "--purge", "-q", "-l", "INFO",
            "--log-format", "json", "-f", str(log), "--pidfile", "worker.pid", "--without-gossip",
        ],
        cwd=shop.path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=shop.environ(),
    ) as worker:  # fmt: skip
        task_id = ""
        try:
            wait_for(lambda: log.exists() and "ready." in log.read_text(), worker)
            assert int((shop.path / "worker.pid").read_text()) == worker.pid
            task_id = shop.run("-A", "proj", "call", "proj.add", "-a", "[2, 3]").strip()
            assert shop.run("-A", "proj", "result", "--timeout", "20", task_id) == "5\n"
        finally:
            worker.terminate()
            _, told = worker.communicate(timeout=20)
    assert worker.returncode == 0, told
    assert not (shop.path / "worker.pid").exists()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["level"] for line in lines if line["level"] == "ERROR"] == []
    assert any(line["message"].endswith("stopped with exit code 0") for line in lines)


def wait_for(condition, worker: subprocess.Popen[str], timeout: float = 20.0) -> None:
    until = time.monotonic() + timeout
    while not condition():
        assert worker.poll() is None, worker.communicate()
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.01)


def test_the_supervisor_imports_no_user_code_and_no_drawing(shop):
    (shop.path / "proj.py").write_text("raise SystemExit('imported')")
    code = (
        "import sys\n"
        "from celeriac import cli\n"
        "from celeriac.cli import worker\n"
        "args = cli.parser_of('worker', worker).read(['-A', 'proj', '-l', 'INFO', 'task_acks_late=no'], {})\n"
        "worker.logs.start(worker.options_of(args))\n"
        "print(*[name for name in ('proj', 'rich', 'redis', 'sqlite3', 'asyncio', 'subprocess', 'pathlib')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=shop.path,
        capture_output=True,
        text=True,
        check=True,
        env=shop.environ(),
    )
    assert done.stdout == "\n"


def test_migrate_makes_the_tables_or_says_how(
    tmp_path: Path, postgres_url: str, postgres_schema: str
) -> None:
    shop, schema = Shop(tmp_path), f"{postgres_schema}_cli"
    url = postgres.with_schema(postgres_url, schema)
    try:
        told = shop.run("-b", url, "migrate", "--dry-run")
        assert "1 step to do" in told
        assert f"CREATE TABLE {schema}.ready" in told
        assert "1 step done" in shop.run("-b", url, "migrate")
        assert "up to date" in shop.run("-b", url, "migrate")
        assert shop.run("-b", url, "migrate", "--quiet") == ""
        assert "up to date" in shop.run("-A", "proj", "migrate")
    finally:
        postgres.drop(postgres_url, schema)
