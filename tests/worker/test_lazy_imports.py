"""A worker imports the task modules that its messages ask for, and no others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import WAIT, wait_until
from tests import processes

from celeriac import Celeriac, task_modules
from celeriac.exceptions import WorkerLostError

APP = """
from celeriac import Celeriac
app = Celeriac("proj", broker="sqlite:///{folder}/db.sqlite", include=["thumbs", "mails", "broken", "computed"],
               task_ignore_result=False, worker_shutdown_timeout=5)
@app.task
def loaded(names):
    import os, sys
    return os.getpid(), [name for name in names if name in sys.modules]
"""
MODULE = """
import os
from proj import app
with open("{folder}/imports", "a") as file: file.write("{name} " + str(os.getpid()) + "\\n")
"""
MODULES = {
    "thumbs": "@app.task\ndef make(x): return x * 2\n",
    "mails": "@app.task(name='post.send')\ndef send(x): return x + 1\n",
    "broken": "import no_such_library\n@app.task\ndef never(): ...\n",
    "computed": "for n in 'ab':\n    @app.task(name='computed.' + n)\n    def one(): return 'computed'\n",
}
NAMES = ["thumbs", "mails", "computed"]


class Proj:
    """A project of several task modules, and its worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "proj.py").write_text(APP.format(folder=folder))
        for name, code in MODULES.items():
            (folder / f"{name}.py").write_text(MODULE.format(folder=folder, name=name) + code)
        self.app = Celeriac(
            broker=f"sqlite:///{folder}/db.sqlite", task_ignore_result=False, set_as_current=False
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celeriac", "-A", "proj", "worker", "-l", "INFO", *flags],
                cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def call(self, name: str, *args: Any) -> Any:
        return self.app.send_task(name, args).get(timeout=WAIT)

    def imports(self) -> list[str]:
        """Which modules were imported, as often as they were."""
        path = self.folder / "imports"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def close(self) -> None:
        self.app.close()
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)


@pytest.fixture
def proj(tmp_path: Path) -> Iterator[Proj]:
    found = Proj(tmp_path)
    yield found
    found.close()


@pytest.mark.parametrize("flags", [("-c", "1"), ("-P", "threads", "-c", "4")], ids=["prefork", "threads"])
def test_only_what_is_asked_for_is_imported(proj: Proj, flags: tuple[str, ...]) -> None:
    proj.start(*flags)
    assert proj.call("proj.loaded", NAMES)[1] == []
    assert proj.call("thumbs.make", 21) == 42
    wait_until(lambda: proj.call("proj.loaded", NAMES)[1] == ["thumbs"], lambda: "only that one is loaded")
    assert set(proj.imports()) == {"thumbs"}
    assert proj.call("post.send", 1) == 2
    assert set(proj.imports()) == {"thumbs", "mails"}


def test_later_children_share_what_an_earlier_one_needed(proj: Proj) -> None:
    proj.start("-c", "1")
    first = proj.call("proj.loaded", NAMES)[0]
    assert proj.call("thumbs.make", 1) == 2
    wait_until(lambda: proj.call("proj.loaded", NAMES)[0] != first, lambda: "the child is replaced")
    wait_until(
        lambda: proj.imports() == ["thumbs", "thumbs"], lambda: "a child and the template have imported it"
    )
    os.kill(proj.call("proj.loaded", NAMES)[0], signal.SIGKILL)
    assert proj.call("proj.loaded", NAMES)[1] == ["thumbs"]
    assert proj.call("thumbs.make", 2) == 4
    assert proj.imports() == ["thumbs", "thumbs"]


def test_a_template_that_was_let_go_comes_back_with_what_was_needed(proj: Proj) -> None:
    proj.start("-c", "1", "worker_template_keepalive=0")
    first = proj.call("proj.loaded", NAMES)[0]
    assert proj.call("thumbs.make", 1) == 2 and proj.process is not None
    supervisor = proj.process.pid
    wait_until(lambda: not processes.templates(supervisor), "the template has ended")
    os.kill(processes.children(supervisor)[0], signal.SIGKILL)
    second, loaded = proj.call("proj.loaded", NAMES)
    assert second != first and loaded == ["thumbs"]


def test_a_broken_module_fails_its_own_tasks_and_no_others(proj: Proj) -> None:
    proj.start("-c", "1")
    with pytest.raises(Exception, match=r"module 'broken' cannot be imported.*no_such_library"):
        proj.call("broken.never")
    assert proj.call("thumbs.make", 3) == 6
    assert [letter.reason for letter in proj.app.broker.dead("celery")] == ["import failed"]
    wait_until(lambda: "the task module broken cannot be imported" in proj.log(), proj.log)


@pytest.mark.parametrize("flags", [("-c", "1"), ("-P", "threads", "-c", "4")], ids=["prefork", "threads"])
def test_whatever_breaks_in_a_module_no_other_pays_for_it(proj: Proj, flags: tuple[str, ...]) -> None:
    (proj.folder / "broken.py").write_text("def never(:\n")
    with (proj.folder / "thumbs.py").open("a") as file:
        file.write("import no_such_library\n")
    proj.start(*flags, "task_unknown_grace=0")
    first = proj.call("proj.loaded", NAMES)[0]
    # What a module with a slip declares cannot be read, so that it is asked before `computed` is.
    assert proj.call("computed.a") == "computed"
    # Which modules are broken each process finds out for itself, and this one is replaced for what it has imported.
    wait_until(lambda: proj.call("proj.loaded", NAMES)[0] != first, lambda: "the child is replaced")
    with pytest.raises(Exception, match=r"module 'broken' cannot be imported.*SyntaxError"):
        proj.call("broken.never")
    # Its task was declared before the line that fails; it does not run in half of a module, now or later.
    for _ in range(2):
        with pytest.raises(Exception, match=r"module 'thumbs' cannot be imported.*no_such_library"):
            proj.call("thumbs.make", 3)
    with pytest.raises(Exception, match=r"knows the task 'elsewhere\.work'"):
        proj.call("elsewhere.work")
    assert proj.call("post.send", 1) == 2
    letters = {letter.reason: letter.detail for letter in proj.app.broker.dead("celery")}
    assert letters.keys() == {"import failed", "unknown task"}
    assert letters["unknown task"].endswith("these modules could not be imported: broken, thumbs")


def test_a_module_that_ends_its_process_ends_as_a_dead_letter(proj: Proj) -> None:
    (proj.folder / "broken.py").write_text(
        "import os\nfrom proj import app\n@app.task\ndef never(): ...\nos._exit(3)\n"
    )
    names = ("thumbs.make", "broken.never", "post.send", "thumbs.make")
    sent = [proj.app.send_task(name, () if "never" in name else (1,)) for name in names]
    proj.start("-c", "1", "task_max_deliveries=1")
    assert [sent[number].get(timeout=WAIT) for number in (0, 2, 3)] == [2, 2, 2]
    with pytest.raises(WorkerLostError, match="its process died"):
        sent[1].get(timeout=WAIT)
    assert [letter.reason for letter in proj.app.broker.dead("celery")] == ["crashed"]


def test_a_module_that_is_mended_is_imported_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = "from celeriac import current_app\n@current_app.task\ndef one(): return LATE\n"
    (tmp_path / "mended.py").write_text(declared + "import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(task_modules, "_PAUSE", 0.0)
    app = Celeriac("mending", broker="memory://mending", set_as_current=False)
    modules = task_modules.TaskModules(app, ["mended"])
    with pytest.raises(task_modules.ModuleBroken):
        modules.task("mended.one")
    assert "mended.one" not in app.tasks and modules.broken() == ["mended"]
    (tmp_path / "mended.py").write_text(declared + "LATE = 'mended'\n")
    assert modules.task("mended.one")() == "mended"
    assert modules.broken() == []
    app.close()


def test_every_way_to_name_a_module_waits_for_its_tasks(proj: Proj) -> None:
    (proj.folder / "shop").mkdir()
    (proj.folder / "shop" / "__init__.py").touch()
    code = "@app.task\ndef work(): return __name__\n"
    for name in ("shop.tasks", "flagged", "set"):
        path = proj.folder / f"{name.replace('.', '/')}.py"
        path.write_text(MODULE.format(folder=proj.folder, name=name) + code)
    with (proj.folder / "proj.py").open("a") as file:
        file.write("app.autodiscover_tasks(['shop'])\napp.conf.imports = ['set']\n")
    proj.start("-c", "1", "-I", "flagged")
    assert proj.call("proj.loaded", NAMES)[1] == [] == proj.imports()
    # Their names are known to the worker, and told, all the same.
    for name in ("flagged.work", "post.send", "set.work", "shop.tasks.work", "thumbs.make"):
        assert name in proj.log()
    for name in ("shop.tasks", "set", "flagged"):
        assert proj.call(f"{name}.work") == name
    assert set(proj.imports()) == {"shop.tasks", "set", "flagged"}


def test_a_name_that_is_computed_is_found_all_the_same(proj: Proj) -> None:
    proj.start("-c", "1")
    assert proj.call("computed.a") == "computed"


def test_what_listens_to_signals_is_there_from_the_start(proj: Proj) -> None:
    (proj.folder / "mails.py").write_text(
        MODULE.format(folder=proj.folder, name="mails")
        + "from celeriac.signals import worker_process_init\n@worker_process_init.connect\ndef told(**more): ...\n"
    )
    proj.start("-c", "1")
    assert proj.call("proj.loaded", NAMES)[1] == ["mails"]


def test_eager_imports_all_at_the_start(proj: Proj) -> None:
    (proj.folder / "broken.py").write_text("")
    proj.start("-c", "1", "worker_imports=eager")
    assert proj.call("proj.loaded", NAMES)[1] == NAMES


def test_a_misspelt_module_ends_the_worker(proj: Proj) -> None:
    proj.start("-c", "1", "-I", "thumsb")
    assert proj.process is not None
    assert proj.process.wait(WAIT) == 1
    assert "No module named 'thumsb'" in proj.log()


def test_show_imports_tells_what_each_module_costs_and_which_is_broken(proj: Proj) -> None:
    (proj.folder / "heavy.py").write_text("from proj import app\nHELD = bytearray(30_000_000)\n")
    (proj.folder / "deadly.py").write_text("import os\nos._exit(3)\n")
    (proj.folder / "hears.py").write_text("from celeriac.signals import task_prerun\nfrom proj import app\n")
    command = [
        sys.executable,
        "-m",
        "celeriac",
        "-A",
        "proj",
        "worker",
        "--show-imports",
        "-I",
        "heavy,deadly,hears",
    ]
    told = subprocess.run(command, cwd=proj.folder, capture_output=True, text=True, timeout=WAIT)
    assert told.returncode == 1, told.stderr
    rows = {line.split()[0]: line for line in told.stdout.splitlines()}
    heavy, thumbs = rows["heavy"].split(), rows["thumbs"].split()
    assert heavy[1:4] == ["when", "wanted", "0"] and 30.0 <= float(heavy[5]) < 40.0
    assert thumbs[1:4] == ["when", "wanted", "1"] and float(thumbs[5]) < 20.0
    assert rows["computed"].split()[3] == "2"
    assert "at the start" in rows["hears"] and "at the start" in rows["proj"]
    assert "ModuleNotFoundError: No module named 'no_such_library'" in rows["broken"]
    assert "its import ended the process (3)" in rows["deadly"]
    assert not (proj.folder / "db.sqlite").exists()
