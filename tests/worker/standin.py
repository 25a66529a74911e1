"""Stands in for an application and a child, so that processes can be tested without a broker or tasks.

Run as a program: `standin.py supervisor APP` and, started by that one, `standin.py template FD`. Children and the
supervisor's events connect to the socket that CELERIAC_STAGE names; the test reads there what happens, and tells
each child what to do.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from types import SimpleNamespace


def report(conn, **fields):
    conn.sendall(json.dumps(fields).encode() + b"\n")


def connect():
    conn = socket.socket(socket.AF_UNIX)
    conn.connect(os.environ["CELERIAC_STAGE"])
    return conn


def load(options):
    from celeriac.configuration import Configuration

    sys.modules["user_application"] = SimpleNamespace()
    with connect() as conn:
        report(conn, event="import", pid=os.getpid())
    behaviour = options.app
    if os.path.exists(behaviour):
        with open(behaviour) as file:
            behaviour = file.read()
    if behaviour == "raises":
        raise RuntimeError("the application is broken")
    if behaviour == "exits":
        sys.exit(0)
    if behaviour == "dies":
        os._exit(7)
    if behaviour == "hangs":
        time.sleep(600)
    conf = Configuration(environ={})
    conf.config_from_flags({"broker_url": "memory://", **options.settings})
    return SimpleNamespace(
        conf=conf,
        tasks={"proj.add": 1, "proj.scrape": 2, "celery.backend_cleanup": 3},
        modules=None,
        main="proj",
    )


class Performer:
    """A child that does as the test says."""

    def __init__(self, fork, control, board):
        self.control, self.board = control, board
        self.conn = connect()
        self.code = None
        self.running = set()
        self.draining = False
        self.deaf = False
        self.fork = fork
        signal.signal(signal.SIGUSR1, lambda *_: self.say("warned"))

    def say(self, event, **fields):
        report(
            self.conn, event=event, number=self.fork.number, pid=os.getpid(), owner=self.fork.owner, **fields
        )

    def perform(self, options):
        from celeriac import wire

        if "stillborn" in os.environ.get("CELERIAC_CHILD", ""):
            return int(os.environ["CELERIAC_CHILD"].split(":")[1])
        if "slow" in os.environ.get("CELERIAC_CHILD", ""):
            self.say("slow")
            time.sleep(600)
        self.say("ready", standby=self.fork.standby)
        self.control.send(wire.ChildReady(os.getpid()))
        inbox = self.conn.makefile("rb", buffering=0)
        while self.code is None:
            watched = [inbox] if self.deaf else [self.control, inbox]
            for reader in select.select(watched, [], [])[0]:
                if reader is inbox:
                    line = inbox.readline()
                    if not line:
                        return 0
                    self.obey(json.loads(line), wire)
                else:
                    self.hear(self.control.receive(), wire)
            if self.draining and not self.running and self.code is None:
                self.control.send(wire.Stopped())
                self.say("stopped")
                self.code = 0
        return self.code

    def hear(self, word, wire):
        if isinstance(word, wire.Begin):
            self.say("begun")
        elif word is None or isinstance(word, wire.Drain):
            self.say("drain" if word else "eof")
            self.draining = True
            self.deaf = word is None

    def obey(self, order, wire):
        match order["do"]:
            case "start":
                now = time.monotonic()
                soft, hard = order.get("soft", 0), order.get("hard", 0)
                key = bytes.fromhex(order["key"])
                self.running.add(order["slot"])
                self.board.begin(
                    order["slot"],
                    key,
                    b"proj.add",
                    now,
                    now + soft if soft else 0.0,
                    now + hard if hard else 0.0,
                )
            case "end":
                self.board.end(order["slot"])
                self.running.discard(order["slot"])
                self.board.count(1, 0)
            case "retire":
                self.control.send(wire.Retiring("enough tasks"))
                self.draining = True
            case "owner":
                self.control.send(wire.Owner(order["owner"]))
            case "deaf":
                self.deaf = True
            case "exit":
                self.code = order["code"]
        self.say("done", what=order["do"])


def run_child(app, options, fork, control, board):
    return Performer(fork, control, board).perform(options)


def supervise() -> int:
    import msgspec

    from celeriac import events, wire
    from celeriac.supervisor import main

    stage = connect()

    def tell(event):
        report(stage, event=type(event).__name__, **msgspec.to_builtins(event))

    for kind in (
        events.WorkerStarting, events.WorkerReady, events.WorkerStopping, events.WorkerStopped, events.ChildReady,
        events.ChildRecycled, events.ChildDied, events.TaskOverran, events.BrokerLost, events.BrokerBack,
        events.LeaseWasLost,
    ):  # fmt: skip
        events.BUS.listen(kind, tell)
    options = msgspec.convert(json.loads(sys.argv[2]), wire.WorkerOptions)
    main._TICK = float(os.environ.get("CELERIAC_STAGE_TICK", main._TICK))
    code = main.run(options, (sys.executable, __file__, "template"))
    report(stage, event="modules", names=sorted(sys.modules))
    return code


if __name__ == "__main__":
    if sys.argv[1] == "template":
        from celeriac.worker import template

        sys.exit(template.serve(int(sys.argv[2]), load, run_child))
    sys.exit(supervise())
