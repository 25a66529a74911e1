"""Events as log lines: wording, levels, formats, and where lines go."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from celeriac import events, log_output, logs, message, task_logs
from celeriac.configuration import Configuration
from celeriac.context import REQUEST, Request
from celeriac.events import Bus
from celeriac.exceptions import ImproperlyConfigured
from celeriac.log_output import Wishes
from celeriac.message import Message
from celeriac.utils.log import get_task_logger
from celeriac.wire import WorkerOptions

KEY = bytes.fromhex("0190a0b0c0d070008000000000000001")
ID = message.id_of(KEY)
REQUEST_OF_ADD = Request(Message(KEY, "proj.add", (1,), {}))


@pytest.fixture(autouse=True)
def _root_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def logfile(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


def started(logfile: Path, level: str = "DEBUG", conf: Configuration | None = None, **settings) -> Bus:
    bus = Bus()
    options = WorkerOptions(hostname="celery@here", loglevel=level, logfile=str(logfile), settings=settings)
    logs.start(options, conf, current=task_logs.current, bus=bus)
    return bus


def failed(error: Exception, *, expected: bool = False) -> events.TaskFailed:
    return events.TaskFailed(ID, "proj.add", REQUEST_OF_ADD, error, "Traceback: here\n", expected, 0.5)


WORDINGS = [
    (events.TaskReceived(ID, "proj.add", "mail"), "INFO", f"Task proj.add[{ID}] received"),
    (
        events.TaskSucceeded(ID, "proj.add", REQUEST_OF_ADD, {"a": [1, 2]}, 0.25),
        "INFO",
        f"Task proj.add[{ID}] succeeded in 0.250000s: {{'a': [1, 2]}}",
    ),
    (failed(ValueError("no")), "ERROR", f"Task proj.add[{ID}] raised unexpected: ValueError('no')"),
    (
        failed(ValueError("no"), expected=True),
        "INFO",
        f"Task proj.add[{ID}] raised expected: ValueError('no')",
    ),
    (
        events.TaskRetried(ID, "proj.add", REQUEST_OF_ADD, KeyError("k"), "", 3.0),
        "INFO",
        f"Task proj.add[{ID}] retry: Retry in 3s: KeyError('k')",
    ),
    (
        events.TaskRejected(ID, "proj.add", "bad", requeued=False),
        "WARNING",
        f"Task proj.add[{ID}] reject requeue=False: bad",
    ),
    (events.TaskIgnored(ID, "proj.add"), "INFO", f"Task proj.add[{ID}] ignored"),
    (events.TaskRevoked(ID, "proj.add", "revoked"), "INFO", f"Discarding revoked task: proj.add[{ID}]"),
    (
        events.TaskUnknown(ID, "proj.ad", put_back=True),
        "WARNING",
        "Received unregistered task of type 'proj.ad'",
    ),
    (
        events.TaskOverran(ID, "proj.add", 10.0, hard=True),
        "ERROR",
        f"Hard time limit (10s) exceeded for proj.add[{ID}]",
    ),
    (
        events.TaskBlocksLoop(ID, "proj.add", 1.04, "/srv/proj.py:3, in add"),
        "WARNING",
        f"Task proj.add[{ID}] has blocked the event loop for 1.0s and keeps all other runs of this process waiting: "
        "/srv/proj.py:3, in add",
    ),
    (events.WorkerReady("celery@here"), "INFO", "celery@here ready."),
    (
        events.DeadLettersEvicted("mail", 7, "age", ID),
        "WARNING",
        "7 dead letters of queue mail were deleted: they had been kept for task_dead_letter_expires",
    ),
]


@pytest.mark.parametrize(("event", "level", "text"), WORDINGS)
def test_lines_have_the_words_that_monitors_parse(event, level, text, logfile):
    started(logfile).emit(event)
    line = logfile.read_text().splitlines()[0]
    assert re.match(rf"\[\d{{4}}-\d\d-\d\d [\d:,]+: {level}/MainProcess\] {re.escape(text)}", line), line


def test_every_event_is_told():
    def below(kind: type) -> Iterator[type]:
        for sub in kind.__subclasses__():
            yield sub
            yield from below(sub)

    # What the two tell, others tell in a line: that the message was sent, and how the run ended.
    told = logs.TELLERS.keys() | {events.TaskEvent, events.TaskSending, events.TaskRan}
    assert [
        kind for kind in below(events.Event) if kind.__module__ == events.__name__ and kind not in told
    ] == []


def test_a_level_that_is_off_costs_no_listener(logfile):
    bus = started(logfile, "WARNING")
    assert not bus.wanted(events.TaskSucceeded)
    assert not bus.wanted(events.TaskReceived)
    assert bus.wanted(events.TaskFailed)


def test_an_expected_error_is_silent_at_warning(logfile):
    started(logfile, "WARNING").emit(failed(ValueError("no"), expected=True))
    assert logfile.read_text() == ""


def test_starting_twice_tells_once(logfile):
    bus = started(logfile)
    logs.listen(bus, logging.DEBUG)
    bus.emit(events.WorkerReady("w"))
    assert logfile.read_text().count("ready.") == 1


def test_the_traceback_follows_an_unexpected_error(logfile):
    started(logfile).emit(failed(ValueError("no")))
    assert logfile.read_text().splitlines()[1:] == ["Traceback: here"]


def test_json_lines_have_the_fields(logfile):
    started(logfile, worker_log_format="json").emit(failed(ValueError("no")))
    line = json.loads(logfile.read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", line.pop("time"))
    assert isinstance(line.pop("pid"), int)
    assert line == {
        "level": "ERROR", "logger": "celeriac.worker", "process": "MainProcess", "worker": "celery@here",
        "message": f"Task proj.add[{ID}] raised unexpected: ValueError('no')",
        "task": "proj.add", "id": ID, "runtime": 0.5, "exception": "ValueError('no')",
        "traceback": "Traceback: here",
    }  # fmt: skip


def test_json_stays_one_line_whatever_is_logged(logfile):
    started(logfile, worker_log_format="json")
    logging.getLogger("x").warning("two\nlines \ud800")
    assert len(logfile.read_text().splitlines()) == 1
    assert json.loads(logfile.read_text())["logger"].strip("'") == "x"


def test_no_line_shows_a_password(logfile):
    bus = started(logfile)
    bus.emit(events.BrokerLost("redis://u:secret@h:1/0", "cannot reach redis://u:secret@h:1/0", 1.0))
    bus.emit(failed(ValueError("amqp://u:secret@h//")))
    logging.getLogger("x").warning("see redis://:secret@h/0 and mail ann@example.com")
    text = logfile.read_text()
    assert "secret" not in text
    assert "ann@example.com" in text


def test_a_password_is_hidden_in_json_too(logfile):
    started(logfile, worker_log_format="json").emit(failed(ValueError("amqp://u:secret@h//")))
    assert "secret" not in logfile.read_text()


def test_a_huge_result_is_cut_at_the_tasks_own_size(logfile):
    bus = started(logfile)
    bus.emit(events.TaskSucceeded(ID, "proj.add", REQUEST_OF_ADD, ["x" * 50_000] * 1000, 0.1))
    assert len(logfile.read_text()) < 1300


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "a'b",
        b"x",
        (),
        (1,),
        (1, 2),
        [],
        [1, [2]],
        {},
        {"a": {1, 2}},
        frozenset({3}),
        {"k": (None, 1.5)},
    ],
)
def test_a_small_value_is_shown_as_it_is(value):
    assert logs.brief(value, 1024) == repr(value)


def test_a_value_that_cannot_be_shown_is_named():
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert logs.brief(Broken(), 100) == "<Broken: its text cannot be had: RuntimeError>"
    assert "RecursionError" not in logs.brief([[[[[[[1]]]]]]], 100)


def test_a_task_logger_knows_the_running_task(logfile):
    started(logfile)
    logger = get_task_logger("proj.somewhere")
    token = REQUEST.set(REQUEST_OF_ADD)
    logger.info("half way")
    REQUEST.reset(token)
    logger.info("outside")
    first, second = logfile.read_text().splitlines()
    assert first.endswith(f"INFO/MainProcess] proj.add[{ID}]: half way")
    assert second.endswith("???[???]: outside")
    assert logger.parent is logging.getLogger("celeriac.task")


def test_any_line_of_a_running_task_has_its_id_in_json(logfile):
    started(logfile, worker_log_format="json")
    token = REQUEST.set(REQUEST_OF_ADD)
    logging.getLogger("anybody").info("half way")
    REQUEST.reset(token)
    line = json.loads(logfile.read_text())
    assert (line["task"], line["id"]) == ("proj.add", ID)


def test_a_reserved_logger_name_is_refused():
    with pytest.raises(ImproperlyConfigured, match="taken"):
        get_task_logger("celeriac.task")


def test_the_settings_formats_are_kept(logfile):
    conf = Configuration({})
    conf.update(worker_log_format="%(levelname)s|%(message)s", worker_redirect_stdouts=False)
    started(logfile, conf=conf).emit(events.WorkerReady("w"))
    assert logfile.read_text() == "INFO|w ready.\n"


def test_what_is_printed_becomes_lines(logfile):
    conf = Configuration({})
    conf.update(worker_redirect_stdouts_level="ERROR")
    started(logfile, conf=conf)
    print("hello", 3, "times")
    sys.stderr.write("oops\nand again\n")
    print("a line that is begun", end="")
    sys.stdout.flush()
    lines = logfile.read_text().splitlines()
    assert [line.partition("ERROR/MainProcess] ")[2] for line in lines] == [
        "hello 3 times", "oops", "and again", "a line that is begun"
    ]  # fmt: skip


def test_without_hijacking_other_handlers_stay(logfile):
    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            pass

    root, kept = logging.getLogger(), Kept()
    root.handlers[:] = [kept]
    log_output.setup(Wishes(hijack=False, logfile=str(logfile)))
    assert root.handlers == [kept]
    log_output.setup(Wishes(hijack=True, logfile=str(logfile)))
    assert kept not in root.handlers


def test_a_moved_log_file_is_opened_anew(logfile):
    bus = started(logfile)
    bus.emit(events.WorkerReady("first"))
    logfile.rename(logfile.with_suffix(".1"))
    bus.emit(events.WorkerReady("second"))
    assert "second" in logfile.read_text()
    assert "first" not in logfile.read_text()


def test_lines_of_several_processes_do_not_mix(logfile):
    code = (
        "import sys, logging; from celeriac.log_output import Wishes, setup\n"
        "setup(Wishes(format='%(message)s', logfile=sys.argv[1]))\n"
        "for number in range(300): logging.getLogger().error(sys.argv[2] * 5000)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(logfile), letter]) for letter in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    lines = logfile.read_text().splitlines()
    assert sorted(set(lines)) == ["a" * 5000, "b" * 5000]
    assert len(lines) == 600


def test_colours_are_for_terminals():
    record = logging.LogRecord("x", logging.ERROR, "", 0, "text", None, None)
    wishes = Wishes(format="%(message)s")
    assert log_output.TextFormatter(wishes, False).format(record) == "text"
    assert log_output.TextFormatter(wishes, True).format(record) == "\033[1;31mtext\033[0m"


@pytest.mark.parametrize(
    ("path", "expanded"),
    [
        ("/l/%n%I.log", "/l/w1-3.log"),
        ("/l/%h.log", "/l/a.b.log"),
        ("%p.%d.%i.%%n", "w1@a.b.b.3.%n"),
        ("plain%z%", "plain%z%"),
    ],
)
def test_paths_are_filled_in_as_by_celery(path, expanded):
    assert logs.expand(path, "w1@a.b", "ForkPoolWorker-3") == expanded


def test_an_unknown_level_names_the_nearest():
    with pytest.raises(ImproperlyConfigured, match="'WARNING'"):
        logs.level_of("WARNIN")


def test_wishes_survive_the_wire():
    options = WorkerOptions(loglevel="ERROR", settings={"worker_log_color": False})
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(options), type=WorkerOptions)
    assert logs.wishes_of(sent, None, "MainProcess") == Wishes(level=logging.ERROR, color=False)
