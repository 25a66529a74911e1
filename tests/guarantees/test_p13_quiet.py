"""P13: an idle worker sends its broker at most one command a second for each child."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from harness import WAIT, wait_until

from tests.guarantees.ground import Ground, Server
from tests.private_rabbitmq import PrivateRabbit

SECONDS = 6.0


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
    private_ground: Ground, private_server: Server, workers: int, flags: tuple[str, ...], children: int
):
    for _ in range(workers):
        private_ground.worker(*flags)
    assert private_ground.send("add", 1).get(timeout=WAIT) == 2
    private_ground.app.close()
    # One child has run it; others may still be connecting.
    wait_until(lambda: sent(private_server, 1.0) <= children, private_ground.told)
    assert 0 < sent(private_server, SECONDS) <= SECONDS * children


def sent(server: Server, seconds: float) -> int:
    """How many commands come within that time: packets, where several commands can be one step."""
    if not isinstance(server, PrivateRabbit):
        return len(server.commands(seconds))
    before, until = server.clients(), time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until)
    return sum(count - before.get(port, 0) for port, count in server.clients().items())


def test_p13_an_idle_worker_takes_next_to_no_processor_time(ground: Ground):
    worker = ground.worker("-c", "2")
    assert ground.send("add", 1).get(timeout=WAIT) == 2

    def ticks() -> int:
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in worker.tree()]
        return sum(int(field[11]) + int(field[12]) for field in fields)

    before, until = ticks(), time.monotonic() + 3.0
    wait_until(lambda: time.monotonic() > until)
    assert ticks() - before < 0.05 * 3.0 * 100  # five per cent of one processor, by ticks of 10 ms
