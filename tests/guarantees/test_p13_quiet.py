"""P13: an idle worker sends its broker at most one command a second for each child."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import pytest
from harness import WAIT, wait_until

from tests.guarantees.ground import Ground
from tests.servers import PrivateRedis

SECONDS = 6.0
#: A line of MONITOR for a command that came over a connection; what a script does says `lua` there.
COMMAND = re.compile(rb'^\+[\d.]+ \[\d+ [\d.]+:\d+\] "(\w+)"', re.MULTILINE)


def commands(redis: PrivateRedis, seconds: float) -> list[str]:
    """The commands that clients send within that time."""
    heard = b""
    with socket.create_connection(("127.0.0.1", redis.port), 5.0) as monitor:
        monitor.sendall(b"MONITOR\r\n")
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            monitor.settimeout(left)
            try:
                heard += monitor.recv(65536)
            except TimeoutError:
                break
    return [name.decode() for name in COMMAND.findall(heard)]


@pytest.mark.parametrize(
    ("workers", "flags", "children"),
    [
        (1, ("-c", "3"), 3),
        (3, ("-c", "1"), 3),
        (1, ("-P", "threads", "-c", "8"), 1),
        (1, ("-P", "gevent", "-c", "8"), 1),
        (1, ("-P", "asyncio", "-c", "8"), 1),
    ],
    ids=["prefork", "fleet", "threads", "gevent", "asyncio"],
)
def test_p13_an_idle_worker_sends_a_command_a_second_for_each_child_at_most(
    private_ground: Ground, private_redis: PrivateRedis, workers: int, flags: tuple[str, ...], children: int
):
    for _ in range(workers):
        private_ground.worker(*flags)
    assert private_ground.send("add", 1).get(timeout=WAIT) == 2
    private_ground.app.close()
    sent = commands(private_redis, SECONDS)
    assert 0 < len(sent) <= SECONDS * children, sent


def test_p13_an_idle_worker_takes_next_to_no_processor_time(ground: Ground):
    worker = ground.worker("-c", "2")
    assert ground.send("add", 1).get(timeout=WAIT) == 2

    def ticks() -> int:
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in worker.tree()]
        return sum(int(field[11]) + int(field[12]) for field in fields)

    before, until = ticks(), time.monotonic() + 3.0
    wait_until(lambda: time.monotonic() > until)
    assert ticks() - before < 0.05 * 3.0 * 100  # five per cent of one processor, by ticks of 10 ms
