"""The test's side of `standin.py`: starts a supervisor, hears what its processes report, tells children what to do."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

STANDIN = Path(__file__).with_name("standin.py")
#: Seconds after which something that should have happened will not any more; long, for machines under load.
WAIT = 30.0


class Stage:
    """One supervisor with its processes. `wait` returns the first report that was not waited for before."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = str(tmp_path / "stage")
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(self.path)
        self.server.listen(64)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.server, selectors.EVENT_READ, None)
        self.buffers: dict[socket.socket, bytes] = {}
        self.children: dict[int, socket.socket] = {}
        self.reports: list[dict] = []
        self.process: subprocess.Popen | None = None
        self.stderr = tmp_path / "stderr"

    def start(self, app: str = "works", env: dict | None = None, **options) -> None:
        """Start the supervisor. `settings` go to the application."""
        shown = {"type": "WorkerOptions", "app": app, "hostname": "celery@test", **options}
        with self.stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, str(STANDIN), "supervisor", json.dumps(shown)],
                env={**os.environ, "CELERIAC_STAGE": self.path, **(env or {})},
                stderr=stderr, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def wait(self, event: str, timeout: float = WAIT, **fields) -> dict:
        """The next report of that event and with these fields."""
        until = time.monotonic() + timeout
        while True:
            for at, report in enumerate(self.reports):
                if report["event"] == event and all(
                    report.get(key) == value for key, value in fields.items()
                ):
                    return self.reports.pop(at)
            remaining = until - time.monotonic()
            if remaining <= 0:
                raise AssertionError(
                    f"no {event} {fields}; reports: {self.reports}; {self.stderr.read_text()}"
                )
            self.listen(remaining)

    def listen(self, timeout: float) -> None:
        """Take in what there is."""
        for key, _ in self.selector.select(timeout):
            if key.fileobj is self.server:
                conn, _ = self.server.accept()
                self.selector.register(conn, selectors.EVENT_READ)
                self.buffers[conn] = b""
                continue
            conn = key.fileobj
            try:
                data = conn.recv(65536)
            except OSError:
                data = b""
            if not data:
                self.selector.unregister(conn)
                conn.close()
                continue
            *lines, self.buffers[conn] = (self.buffers[conn] + data).split(b"\n")
            for line in lines:
                report = json.loads(line)
                if "owner" in report and "pid" in report:
                    self.children[report["pid"]] = conn
                self.reports.append({**report, "heard_at": time.monotonic()})

    def tell(self, pid: int, do: str, **fields) -> None:
        """Tell a child what to do, and wait until it has done so."""
        self.children[pid].sendall(json.dumps({"do": do, **fields}).encode() + b"\n")
        if do != "exit":
            self.wait("done", pid=pid, what=do)

    def signal(self, number: signal.Signals) -> float:
        """Send the supervisor a signal; when that was."""
        now = time.monotonic()
        self.process.send_signal(number)
        return now

    def exit_code(self, timeout: float = WAIT) -> int:
        """How the supervisor ends."""
        return self.process.wait(timeout)

    def close(self) -> None:
        """End every process of this stage: they are one process group, made in `start`."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(WAIT)
        for conn in self.buffers:
            conn.close()
        self.server.close()
        self.selector.close()
