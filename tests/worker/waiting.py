"""Tasks that wait for servers with the libraries that applications use, none of which knows gevent."""

from __future__ import annotations

import contextvars
import os
import sqlite3
import subprocess
import sys
import threading
import time

import psycopg
import redis
import requests
from gevent import monkey
from workload import FOLDER, app, note, wait_for_gate

LOCAL = threading.local()
COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@app.task(ignore_result=False)
def fetches(url: str) -> str:
    note("start")
    return requests.get(url, timeout=30).text


@app.task(ignore_result=False)
def pops(url: str, key: str) -> str:
    note("start")
    with redis.Redis.from_url(url) as client:
        return client.blpop([key], timeout=30)[1].decode()


@app.task(ignore_result=False)
def locks(url: str, number: int) -> str:
    note("start")
    with psycopg.connect(url) as connection:
        connection.execute("select pg_advisory_lock_shared(%s)", [number])
        return connection.execute("select 'locked'").fetchone()[0]


@app.task(ignore_result=False)
def counts(path: str, gate: str) -> int:
    note("start")
    with sqlite3.connect(path) as connection:
        connection.execute("update counter set value = value + 1")
    wait_for_gate(gate)
    return connection.execute("select value from counter").fetchone()[0]


@app.task(ignore_result=False)
def colours(colour: str, gate: str) -> list[str]:
    COLOUR.set(colour)
    LOCAL.colour = colour
    note("start")
    wait_for_gate(gate)
    return [COLOUR.get(), LOCAL.colour]


@app.task(ignore_result=False)
def runs_program(gate: str) -> str:
    note("start")
    line = f"while [ ! -e {FOLDER / gate} ]; do sleep 0.02; done; echo done"
    return subprocess.run(["sh", "-c", line], check=True, capture_output=True, text=True).stdout.strip()


@app.task(ignore_result=False)
def patched() -> list[str]:
    return [
        name for name in ("socket", "ssl", "threading", "time", "select") if monkey.is_module_patched(name)
    ]


@app.task(ignore_result=False)
def spins_until(gate: str) -> int:
    note("start")
    until = time.monotonic() + 30
    while not os.path.exists(FOLDER / gate) and time.monotonic() < until:
        pass
    return os.getpid()


@app.task(ignore_result=False)
def refuses_to_end(gate: str) -> str:
    note("start")
    while True:
        try:
            wait_for_gate(gate)
            break
        except BaseException as exc:
            note("caught", error=type(exc).__name__)
    note("end")
    return "at last"


@app.task(ignore_result=False)
def keeps_unpatched() -> list[str]:
    """Names in our modules that are bound to the system's own calls, which would hold up the loop."""
    originals = {id(value) for saved in monkey.saved.values() for value in saved.values() if callable(value)}
    return [
        f"{name}.{attribute}"
        for name, module in list(sys.modules.items())
        if name.startswith("celeriac") and name != "celeriac.native"
        for attribute, value in vars(module).items()
        if id(value) in originals
    ]
