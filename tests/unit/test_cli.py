"""The command line taken apart: both orders, typos, values, exit codes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from celeriac import cli, plugins, wire
from celeriac.cli import dead, parsing, show, worker
from celeriac.exceptions import ImproperlyConfigured, UnknownOption
from celeriac.wire import WorkerOptions

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "CELERIAC_APP",
        "CELERY_APP",
        "CELERIAC_BROKER",
        "CELERY_BROKER",
        "CELERIAC_CONFIG_MODULE",
        "NO_COLOR",
    ):
        monkeypatch.setenv(name, "")
    monkeypatch.chdir(tmp_path)


def options(*argv: str, environ: dict[str, str] | None = None) -> WorkerOptions:
    """What `celeriac worker` would ask its processes for."""
    name, rest = parsing.split(argv)
    assert name == "worker"
    args = cli.parser_of("worker", worker).read(rest, environ or {})
    parsing.enter(args)
    return worker.options_of(args)


def test_both_orders_mean_the_same():
    expected = options("-A", "proj", "worker", "-Q", "x,y", "-l", "info")
    assert expected == options("worker", "-A", "proj", "-Q", "x,y", "-l", "INFO")
    assert expected == options("worker", "--queues=x,y", "--app=proj", "--loglevel", "INFO")
    assert (expected.app, expected.queues, expected.loglevel) == ("proj", ("x", "y"), "INFO")


def test_flags_become_settings_of_their_type():
    given = options(
        "worker", "--time-limit", "10", "--soft-time-limit=5.5", "--max-tasks-per-child", "7", "--lease", "60",
        "--max-memory-per-child", "200000", "--prefetch-multiplier", "auto", "-b", "redis://h", "-E", "-C",
        "--max-age-per-child", "3600", "--max-age-variance", "60", "--log-format", "json",
    )  # fmt: skip
    assert given.settings == {
        "task_time_limit": 10.0, "task_soft_time_limit": 5.5, "worker_max_tasks_per_child": 7,
        "worker_lease": 60.0, "worker_max_memory_per_child": 200000, "worker_prefetch_multiplier": "auto",
        "broker_url": "redis://h", "worker_send_task_events": True, "worker_log_color": False,
        "worker_max_age_per_child": 3600.0, "worker_max_age_variance": 60.0, "worker_log_format": "json",
    }  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [("10,3", (3, 10)), ("3, 10", (3, 10)), ("10", (0, 10))])
def test_autoscale_takes_its_numbers_in_either_order(text, expected):
    assert options("worker", "--autoscale", text).autoscale == expected
    assert options("worker", f"--autoscale={text}").autoscale == expected


@pytest.mark.parametrize("dashes", [[], ["--"]])
def test_pairs_are_settings(dashes):
    given = options("worker", "-c", "2", *dashes, "worker.prefetch_multiplier=1", "task_acks_late=no")
    assert given.settings == {"worker_prefetch_multiplier": 1, "task_acks_late": False}
    assert given.concurrency == 2


def test_pairs_may_stand_between_options():
    given = options("worker", "task_acks_late=no", "-c", "2", ".prefetch_multiplier=1", "-P", "threads")
    assert given.settings == {"worker_prefetch_multiplier": 1, "task_acks_late": False}
    assert (given.concurrency, given.pool) == (2, "threads")


def test_queues_may_have_weights():
    given = options("worker", "-A", "p", "-Q", "high:3, proj:mail:2,low")
    assert given.queues == ("high", "proj:mail", "low")
    assert given.weights == {"high": 3, "proj:mail": 2}
    given = options("worker", "-A", "p", "-Q", "b,a,b", "--queue-order", "priority")
    assert (given.queues, given.weights, given.queue_order) == (("b", "a"), {}, "priority")


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["wroker"], "'worker'"),
        (["worker", "--concurency", "3"], "'--concurrency'"),
        (["worker", "--quues", "a"], "'--queues'"),
        (["worker", "-l", "INFOO"], "'info'"),
        (["worker", "-A", "p", "-P", "preforkk"], "'prefork'"),
        (["worker", "-A", "p", "worker.prefetch_multiplyer=1"], "'worker_prefetch_multiplier'"),
        (["--brokre", "x", "worker"], "'--broker'"),
        (["dead", "lst"], "'list'"),
        (["queues", "--jsn"], "'--json'"),
        (["worker", "-A", "p", "-c", "many"], "'worker_concurrency' must be a whole number"),
        (["worker", "-A", "p", "stray"], "'stray' is not a setting"),
        (["call"], "NAME"),
        (["worker", "-Q"], "expected one argument"),
        (["worker", "-A", "p", "--autoscale", "3,1,2"], "as in 10,3"),
        (["worker", "-A", "p", "--autoscale", "0"], "as in 10,3"),
        (["worker", "-A", "p", "--autoscale", "few"], "as in 10,3"),
        (["worker", "-A", "p", "--autoscale", "3", "--processes", "2"], "Leave the other out"),
        (["worker", "-A", "p", "-Q", "high:3,low:0"], "'low:0'"),
        (["worker", "-A", "p", "-Q", "high:-1"], "a whole number (1 or more)"),
        (["worker", "-A", "p", "-Q", "high:1.5"], "a whole number (1 or more)"),
        (["worker", "-A", "p", "-Q", "proj:mail"], "proj:mail:1"),
        (["worker", "-A", "p", "-Q", ":3"], "':3'"),
        (["worker", "-A", "p", "-Q", "high:3,low:1,high:2"], "'high' is named twice"),
        (["worker", "-A", "p", "-Q", "high,low:1,high:2"], "'high' is named twice"),
        (["worker", "-A", "p", "-Q", "high:3", "--queue-order", "sorted"], "Leave one out"),
        (["worker", "-A", "p", "--queue-order", "prioriti"], "'priority'"),
        (["worker", "-A", "p", "-B"], "not available yet"),
        (["worker", "-A", "p", "--detach"], "systemd"),
        (["worker"], "-A proj"),
        (["beat"], "not available yet"),
        (["queues"], "which broker?"),
        (["-b", "redis://h", "call", "t", "-a", "{}"], "JSON array"),
        (["-b", "redis://h", "call", "t", "-k", "{"], "not JSON"),
        (["-b", "redis://h", "call", "t", "--eta", "soon"], "not a time"),
        (["-b", "reddis://h", "queues"], "'redis'"),
        (["-b", "redis://h", "dead", "list", "--since", "2 months"], "not a length of time"),
        (["config", "task_acks_lat"], "'task_acks_late'"),
        (["--workdir", "/nowhere/at/all", "config"], "No such file"),
        ([], "COMMAND"),
    ],
)
def test_a_mistake_is_named_and_exits_with_64(argv, named, capsys):
    assert cli.main(argv) == wire.EXIT_USAGE
    told = capsys.readouterr().err
    assert named in told
    assert "Traceback" not in told


def test_a_mistake_is_told_in_one_line(capsys):
    cli.main(["worker", "--concurency", "3"])
    assert capsys.readouterr().err == (
        "celeriac: celeriac worker has no option '--concurency'. Did you mean '--concurrency'?\n"
    )


def test_an_unknown_flag_is_not_guessed():
    with pytest.raises(UnknownOption):
        options("worker", "--queue", "x")


def test_help_and_version_exit_with_0(capsys):
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert [name for name in cli.COMMANDS if f"  {name} " not in listed] == []
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip()
    assert cli.main(["worker", "--version"]) == 0


def test_every_command_of_the_table_loads():
    for row in cli.COMMANDS.values():
        module = plugins.load(row.module)
        assert callable(module.run)
        assert callable(module.add_arguments)


def test_the_environment_gives_what_the_line_does_not(monkeypatch):
    monkeypatch.setenv("CELERY_APP", "old")
    assert options("worker").app == "old"
    monkeypatch.setenv("CELERIAC_APP", "new")
    assert options("worker").app == "new"
    assert options("worker", "-A", "given").app == "given"
    monkeypatch.setenv("CELERY_BROKER", "redis://env")
    assert options("worker").settings == {"broker_url": "redis://env"}


def test_celerys_variables_for_options_of_a_command():
    environ = {
        "CELERY_WORKER_LOGLEVEL": "error",
        "CELERY_WORKER_QUEUES": "a,b",
        "CELERY_WORKER_TASK_EVENTS": "1",
    }
    given = options("worker", environ=environ)
    assert (given.loglevel, given.queues) == ("ERROR", ("a", "b"))
    assert given.settings == {"worker_send_task_events": True}
    assert options("worker", "-l", "DEBUG", environ=environ).loglevel == "DEBUG"


@pytest.mark.parametrize(
    "flags",
    [
        ["--without-gossip", "--without-mingle", "--without-heartbeat"], ["--heartbeat-interval", "2"],
        ["-O", "fair"], ["-S", "state.db"], ["--disable-prefetch"], ["--pool-start-method", "spawn"],
        ["-E"], ["--events"], ["--discard"], ["-q"], ["--skip-checks"], ["-I", "a,b"], ["-X", "c"],
    ],
)  # fmt: skip
def test_celerys_flags_are_accepted(flags, monkeypatch):
    monkeypatch.setenv("CELERIAC_SKIP_CHECKS", "")
    options("-A", "proj", "worker", *flags)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("w1@%h", "w1@{host}"),
        ("w1", "celery@w1"),
        ("", "celery@{host}"),
        ("%n@x", "{short}@x"),
        ("a@%%", "a@%"),
    ],
)
def test_names_are_made_as_by_celery(given, name):
    host = worker.platform.node()
    assert worker.node_name(given) == name.format(host=host, short=host.partition(".")[0])


def test_auto_concurrency_is_at_least_one():
    assert options("worker", "-c", "auto").concurrency >= 1


def test_a_pidfile_of_a_running_process_is_respected(tmp_path, capsys):
    pidfile = tmp_path / "worker.pid"
    pidfile.write_text("1\n")
    with pytest.raises(parsing.CommandFailed) as caught:
        worker._claim(str(pidfile))
    assert caught.value.code == 73
    pidfile.write_text("999999999\n")
    worker._claim(str(pidfile))
    assert int(pidfile.read_text()) == worker.os.getpid()


def test_an_unreachable_broker_exits_with_69(capsys):
    assert cli.main(["-b", "redis://u:secret@127.0.0.1:1/0", "queues"]) == wire.EXIT_BROKER_UNAVAILABLE
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "secret" not in told


def test_an_application_that_fails_to_import_is_told_in_one_sentence(tmp_path, capsys, monkeypatch):
    (tmp_path / "broken_project.py").write_text("x = 1\nraise OSError('no disk')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli.main(["-A", "broken_project", "queues"]) == wire.EXIT_FAILURE
    told = capsys.readouterr().err
    assert told.startswith(
        "celeriac: the application 'broken_project' cannot be imported: OSError: no disk ("
    )
    assert "line 2" in told


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1.5d", 129600), ("1w", 604800)],
)
def test_lengths_of_time_are_read(text, seconds):
    assert show.read_duration(text) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59, "59s"), (61, "1m 1s"), (3600, "1h"), (90061, "1d 1h")]
)
def test_lengths_of_time_are_shown(seconds, text):
    assert show.duration(seconds) == text


def test_a_key_that_is_no_id_is_refused():
    with pytest.raises(ImproperlyConfigured):
        dead._keys_of("key:xyz")


def test_the_reference_page_is_up_to_date():
    script = ROOT / "docs" / "generate_command_line.py"
    module = runpy.run_path(str(script))
    assert module["PAGE"].read_text(encoding="utf-8") == module["page"](), f"run: python {script}"
