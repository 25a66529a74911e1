"""One of the compared systems on one server: sends, workers, counts and looks at it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from rig import HERE, Worker
from servers import Server
from tally import Journal, Tally

#: In the order of the table's columns.
NAMES = ("celeriac", "celery", "dramatiq", "rq", "huey", "taskiq", "arq", "saq", "streaq", "bare")


class Missing(Exception):
    """This system cannot be measured here, for the reason given."""


class System:
    """A peer, or Celeriac, or the bare limit."""

    def __init__(self, name: str, python: str, server: Server, folder: Path) -> None:
        """`python` has the system installed. Raises: Missing: it has not."""
        self.name = name
        self.python = python
        self.server = server
        self._log = folder / f"{name}.log"
        self._environment = {
            **os.environ,
            "BENCH_URL": server.url(name),
            "BENCH_TALLY": str(folder / f"{name}.tally"),
            "BENCH_JOURNAL": str(folder / f"{name}.journal"),
            "PYTHONPATH": str(HERE),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        self.tally = Tally(self._environment["BENCH_TALLY"])
        self.journal = Journal(self._environment["BENCH_JOURNAL"])
        described = self.ask("describe")
        self.version: str = described["version"]
        self.cannot: dict[str, str] = described["cannot"]
        #: What an earlier round has shown, so that the next one knows how much to do.
        self.rates: dict[str, float] = {}
        self._commands: dict[str, list[list[str]]] = described["commands"]

    def ask(self, *words: object) -> Any:
        """Let `sender.py` do something. Raises: Missing, with the end of what it said."""
        command = self._sender(words)
        try:
            done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            raise Missing(f"too slow: {' '.join(map(str, words))}") from None
        if done.returncode:
            raise Missing((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
        return json.loads(done.stdout.splitlines()[-1])

    def begin(self, *words: object) -> subprocess.Popen[bytes]:
        """The same in the background; the caller ends it."""
        return subprocess.Popen(self._sender(words), env=self._environment, stdout=subprocess.DEVNULL)

    def _sender(self, words: tuple[object, ...]) -> list[str]:
        deed, *rest = words
        return [self.python, str(HERE / "sender.py"), str(deed), self.name, *map(str, rest)]

    def clear(self) -> None:
        """An empty server, and counts of nought."""
        self.server.clear()
        self.tally.clear()
        self.journal.clear()

    def has(self, shape: str) -> bool:
        """Whether this system has a worker of that shape."""
        return shape in self._commands

    def start(self, shape: str, **environment: str) -> Worker:
        """A worker in one of the shapes that `sender.describe` names."""
        return Worker(self._commands[shape], {**self._environment, **environment}, self._log)
