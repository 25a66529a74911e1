"""The supervisor with real processes and signals, and children that do as the test says."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from harness import is_running, wait_until
from stage import WAIT, Stage

KEY = "0190a0b0c0d070008000000000000001"
OTHER = "0190a0b0c0d070008000000000000002"
#: What is promised holds on a machine at rest; a loaded one is given more before a test fails.
LENIENT = 4.0
#: For what the supervisor does because it is told, and not because it looks now and then: it never does.
NEVER_LOOKS = {"CELERIAC_STAGE_TICK": "600"}


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def wait_gone(pid: int) -> None:
    wait_until(lambda: not is_running(pid), lambda: f"process {pid} is still there")


def started(stage: Stage, count: int = 1, **options) -> list[dict]:
    stage.start(**options)
    return [stage.wait("ready") for _ in range(count)]


def test_a_worker_starts_says_what_it_does_and_stops_in_order(stage):
    children = started(stage, 2, concurrency=2)
    stage.wait("WorkerReady", worker="celery@test")
    stage.signal(signal.SIGTERM)
    for child in children:
        stage.wait("drain", pid=child["pid"])
    assert stage.wait("WorkerStopped")["code"] == 0
    assert stage.exit_code() == 0
    for child in children:
        wait_gone(child["pid"])
    text = stage.stderr.read_text()
    assert "proj.add" in text and "proj.scrape" in text and "celery.backend_cleanup" not in text
    assert "memory://" in text and "prefork, concurrency 2" in text


def test_a_killed_child_is_replaced(stage):
    (child,) = started(stage, concurrency=1)
    stage.wait("WorkerReady")
    killed_at = time.monotonic()
    os.kill(child["pid"], signal.SIGKILL)
    died = stage.wait("ChildDied", pid=child["pid"])
    assert died["cause"] == "signal 9 (SIGKILL)"
    replacement = stage.wait("ready")
    assert not replacement["standby"] and replacement["owner"] != child["owner"]
    assert replacement["heard_at"] - killed_at < 1.0 + LENIENT


def test_a_child_that_dies_in_a_task_tells_which(stage):
    (child,) = started(stage, concurrency=1)
    stage.tell(child["pid"], "start", slot=0, key=KEY)
    stage.tell(child["pid"], "exit", code=3)
    died = stage.wait("ChildDied")
    assert died["cause"] == "exit code 3" and died["tasks"] == ["proj.add"]


def test_a_killed_template_is_replaced_and_its_children_live_on(stage):
    (child,) = started(stage, concurrency=1)
    template = stage.wait("import")["pid"]
    os.kill(template, signal.SIGKILL)
    second = stage.wait("import")["pid"]
    assert second != template and is_running(child["pid"])
    stage.tell(child["pid"], "start", slot=0, key=KEY)
    os.kill(child["pid"], signal.SIGKILL)
    assert stage.wait("ChildDied", pid=child["pid"])["tasks"] == ["proj.add"]
    assert is_running(stage.wait("ready")["pid"])


def test_a_child_that_dies_while_there_is_no_template_is_noticed(stage, tmp_path):
    app = tmp_path / "app"
    app.write_text("works")
    (child,) = started(stage, concurrency=1, app=str(app))
    template = stage.wait("import")["pid"]
    app.write_text("hangs")
    os.kill(template, signal.SIGKILL)
    second = stage.wait("import")["pid"]
    os.kill(child["pid"], signal.SIGKILL)
    assert stage.wait("ChildDied", pid=child["pid"])["cause"] == "signal 9 (SIGKILL)"
    app.write_text("works")
    os.kill(second, signal.SIGKILL)
    stage.wait("ready")


def test_running_tasks_have_time_to_finish(stage):
    (child,) = started(stage, concurrency=1, env=NEVER_LOOKS)
    stage.tell(child["pid"], "start", slot=0, key=KEY)
    told_at = stage.signal(signal.SIGTERM)
    assert stage.wait("drain")["heard_at"] - told_at < LENIENT
    stage.tell(child["pid"], "end", slot=0)
    stage.wait("stopped")
    assert stage.exit_code() == 0


def test_what_outlasts_the_shutdown_timeout_is_ended_and_not_counted(stage):
    (child,) = started(stage, concurrency=1, settings={"worker_shutdown_timeout": 0.3})
    stage.tell(child["pid"], "start", slot=0, key=KEY)
    told_at = stage.signal(signal.SIGTERM)
    stage.wait("WorkerStopped", code=0)
    assert 0.3 <= time.monotonic() - told_at < 1.5 + LENIENT
    assert not any(report["event"] == "ChildDied" for report in stage.reports)
    wait_gone(child["pid"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_wait(stage, number):
    (child,) = started(stage, concurrency=1)
    stage.tell(child["pid"], "start", slot=0, key=KEY)
    stage.signal(number)
    stage.wait("drain")
    told_at = stage.signal(number)
    assert stage.exit_code() == 0
    assert time.monotonic() - told_at < 1.5 + LENIENT
    wait_gone(child["pid"])


def test_sigquit_ends_it_now(stage):
    (child,) = started(stage, concurrency=1)
    stage.tell(child["pid"], "start", slot=0, key=KEY)
    told_at = stage.signal(signal.SIGQUIT)
    assert stage.exit_code() == 0
    assert time.monotonic() - told_at < 1.5 + LENIENT


def test_a_terminals_interrupt_leaves_template_and_children_alone(stage):
    (child,) = started(stage, concurrency=1)
    template = stage.wait("import")["pid"]
    stage.tell(child["pid"], "start", slot=0, key=KEY)
    os.killpg(stage.process.pid, signal.SIGINT)
    stage.wait("drain")
    assert is_running(template)
    stage.tell(child["pid"], "end", slot=0)
    assert stage.exit_code() == 0


@pytest.mark.parametrize(
    ("app", "said"),
    [("raises", "RuntimeError: the application is broken"), ("exits", "SystemExit: 0"), ("dies", "died")],
)
def test_an_application_that_cannot_be_imported_ends_the_worker(stage, app, said):
    stage.start(app=app)
    assert stage.exit_code() == 1
    assert said in stage.stderr.read_text()
    stage.wait("import")
    stage.wait("WorkerStopped", code=1)
    assert not any(report["event"] == "import" for report in stage.reports)


def test_a_setting_that_cannot_work_is_a_usage_error(stage):
    stage.start(pool="preforc")
    assert stage.exit_code() == 64
    text = stage.stderr.read_text()
    assert "Did you mean 'prefork'?" in text and "Traceback" not in text


def test_an_import_that_hangs_ends_the_worker(stage):
    stage.start(app="hangs", boot_timeout=4.0)
    assert stage.exit_code() == 1
    assert "longer than 4 seconds" in stage.stderr.read_text()
    wait_gone(stage.wait("import")["pid"])


def test_a_stop_while_the_application_is_imported(stage):
    stage.start(app="hangs")
    template = stage.wait("import")["pid"]
    stage.signal(signal.SIGTERM)
    assert stage.exit_code() == 0
    wait_gone(template)


def test_children_that_never_come_up_end_the_worker(stage):
    stage.start(concurrency=2, env={"CELERIAC_CHILD": "stillborn:1"})
    assert stage.exit_code() == 1
    stage.wait("WorkerStopping", reason="no child comes up")


def test_a_child_that_refuses_its_settings_ends_the_worker_at_once(stage):
    stage.start(concurrency=1, env={"CELERIAC_CHILD": "stillborn:64"})
    assert stage.exit_code() == 64


def test_a_child_that_hangs_at_start_is_killed(stage):
    stage.start(concurrency=1, env={"CELERIAC_CHILD": "slow"}, settings={"worker_proc_alive_timeout": 1.5})
    first = stage.wait("slow")
    stage.wait("ChildDied", pid=first["pid"])
    assert stage.wait("slow")["pid"] != first["pid"]


def test_a_child_that_hangs_at_its_end_is_killed(stage):
    (child,) = started(stage, concurrency=1)
    stage.tell(child["pid"], "deaf")
    stage.signal(signal.SIGTERM)
    assert stage.exit_code() == 0
    wait_gone(child["pid"])


def test_a_run_over_its_hard_limit_is_ended_to_half_a_second(stage):
    (child,) = started(stage, pool="threads", concurrency=2)
    stage.tell(child["pid"], "start", slot=1, key=OTHER)
    begun_at = time.monotonic()
    stage.tell(child["pid"], "start", slot=0, key=KEY, hard=0.6)
    overran = stage.wait("TaskOverran")
    assert overran["id"] == "0190a0b0-c0d0-7000-8000-000000000001" and overran["limit"] == pytest.approx(0.6)
    assert 0.6 <= time.monotonic() - begun_at < 1.1 + LENIENT
    stage.wait("ready")
    assert not any(report["event"] == "TaskOverran" for report in stage.reports)


def test_a_run_that_ended_in_time_is_not_killed(stage):
    (child,) = started(stage, concurrency=1)
    stage.tell(child["pid"], "start", slot=0, key=KEY, hard=2.0)
    stage.tell(child["pid"], "end", slot=0)
    stage.tell(child["pid"], "start", slot=0, key=OTHER, soft=2.5)
    stage.wait("warned", pid=child["pid"])
    assert is_running(child["pid"])


def test_a_soft_limit_is_signalled_once(stage):
    (child,) = started(stage, concurrency=1)
    begun_at = time.monotonic()
    stage.tell(child["pid"], "start", slot=0, key=KEY, soft=0.3, hard=3.0)
    warned = stage.wait("warned")
    assert 0.3 <= warned["heard_at"] - begun_at < 0.8 + LENIENT
    stage.wait("TaskOverran")
    assert not any(report["event"] == "warned" for report in stage.reports)


def test_recycling_has_the_replacement_up_first_and_never_runs_two(stage):
    (child,) = started(stage, concurrency=1, env=NEVER_LOOKS)
    stage.tell(child["pid"], "start", slot=0, key=KEY)
    stage.tell(child["pid"], "retire")
    replacement = stage.wait("ready")
    assert replacement["standby"] and is_running(child["pid"])
    assert not any(report["event"] == "begun" for report in stage.reports)
    stage.tell(child["pid"], "end", slot=0)
    ended = stage.wait("stopped", pid=child["pid"])
    begun = stage.wait("begun", pid=replacement["pid"])
    assert begun["heard_at"] - ended["heard_at"] < LENIENT
    wait_gone(child["pid"])
    assert not any(report["event"] == "ChildDied" for report in stage.reports)


def test_a_child_above_its_memory_is_replaced(stage):
    (child,) = started(stage, concurrency=1, settings={"worker_max_memory_per_child": 100})
    replacement = stage.wait("ready")
    stage.wait("drain", pid=child["pid"])
    stage.wait("begun", pid=replacement["pid"])
    assert "memory" in stage.wait("ChildRecycled", pid=child["pid"])["reason"]


def test_a_child_of_many_slots_is_replaced_while_it_drains(stage):
    (child,) = started(stage, pool="threads", concurrency=4, settings={"worker_max_age_per_child": 1.0})
    stage.tell(child["pid"], "start", slot=2, key=KEY)
    replacement = stage.wait("ready")
    stage.wait("drain", pid=child["pid"])
    stage.wait("begun", pid=replacement["pid"])
    assert is_running(child["pid"])
    stage.tell(child["pid"], "end", slot=2)
    wait_gone(child["pid"])


def test_a_reload_keeps_the_old_application_until_the_new_one_is_up(stage, tmp_path):
    app = tmp_path / "app"
    app.write_text("works")
    (child,) = started(stage, concurrency=1, app=str(app))
    first = stage.wait("import")["pid"]
    app.write_text("raises")
    stage.signal(signal.SIGHUP)
    wait_gone(stage.wait("import")["pid"])
    assert is_running(first) and is_running(child["pid"])
    app.write_text("works")
    stage.signal(signal.SIGHUP)
    second = stage.wait("import")["pid"]
    replacement = stage.wait("ready")
    stage.wait("begun", pid=replacement["pid"])
    wait_gone(child["pid"])
    wait_gone(first)
    assert is_running(second)


def test_children_of_a_dead_supervisor_stop_in_order(stage):
    (child,) = started(stage, concurrency=1)
    template = stage.wait("import")["pid"]
    stage.tell(child["pid"], "start", slot=0, key=KEY)
    stage.signal(signal.SIGKILL)
    stage.wait("eof", pid=child["pid"])
    stage.tell(child["pid"], "end", slot=0)
    wait_gone(child["pid"])
    wait_gone(template)


def test_a_new_owner_is_followed(stage):
    (child,) = started(stage, concurrency=1)
    stage.tell(child["pid"], "owner", owner="another")
    assert stage.wait("LeaseWasLost")["owner"] == child["owner"]


def test_neither_descriptors_nor_zombies_are_left(stage):
    (child,) = started(stage, concurrency=1)
    stage.wait("WorkerReady")
    before = descriptors(stage.process.pid)
    for _ in range(5):
        stage.tell(child["pid"], "retire")
        child = stage.wait("ready")
    os.kill(child["pid"], signal.SIGKILL)
    stage.wait("ChildDied")
    child = stage.wait("ready")
    stage.tell(child["pid"], "start", slot=0, key=KEY)
    template = stage.wait("import")["pid"]
    until = time.monotonic() + WAIT
    while descriptors(stage.process.pid) != before or children_of(template) != [child["pid"]]:
        assert time.monotonic() < until, "the supervisor keeps descriptors, or the template zombies"
        stage.listen(0.01)
    assert descriptors(child["pid"]) < 12


def test_the_supervisor_has_no_user_module_and_stays_small(stage):
    started(stage, 2, concurrency=2)
    stage.wait("WorkerReady")
    print(f"\nsupervisor PSS {pss(stage.process.pid)} KiB")
    stage.signal(signal.SIGTERM)
    names = set(stage.wait("modules")["names"])
    heavy = {
        "argparse",
        "asyncio",
        "redis",
        "subprocess",
        "multiprocessing",
        "importlib.metadata",
        "ssl",
        "http",
    }
    assert not names & (heavy | {"user_application", "celeriac.worker.template"})


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def test_a_broker_that_stays_away_ends_the_worker(stage):
    settings = {"broker_url": "redis://localhost:1/0", "broker_connection_lost_timeout": 0.3}
    stage.start(concurrency=1, settings=settings)
    assert stage.exit_code() == 69
    stage.wait("BrokerLost")
