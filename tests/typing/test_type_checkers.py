"""Type checkers refuse the calls that would fail, and no others: the programs beside this file say which."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PROGRAMS = sorted((HERE / "programs").glob("*.py"))


def refused_by_mypy(program: Path) -> dict[int, str]:
    """Line and message of each error."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", "--no-pretty",
         "--hide-error-context", "--show-absolute-path", str(program)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(rf"^{re.escape(str(program))}:(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    return {int(line): text for line, text in found}


def refused_by_pyright(program: Path) -> dict[int, str]:
    """The same for pyright."""
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(program)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    told = json.loads(done.stdout)["generalDiagnostics"]
    return {
        one["range"]["start"]["line"] + 1: one["message"].splitlines()[0]
        for one in told
        if one["severity"] == "error"
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("refused", [refused_by_mypy, refused_by_pyright], ids=["mypy", "pyright"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_the_marked_lines_are_refused_and_no_others(refused, program: Path):
    lines = program.read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# refused")}
    told = refused(program)
    unexpected = [f"{number}: {text}" for number, text in told.items() if number not in marked]
    missing = [f"{number}: {lines[number - 1].strip()}" for number in sorted(marked - told.keys())]
    assert (unexpected, missing) == ([], [])
