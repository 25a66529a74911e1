"""P12: memory does not grow with tasks or with the queue; connections are few."""

from __future__ import annotations

import pytest
from harness import WAIT, wait_until

from celeriac import group
from tests.guarantees.ground import Ground, own_memory
from tests.servers import PrivateRedis

MIB = 1024 * 1024


def run(ground: Ground, count: int) -> None:
    group(ground.app.signature("deeds.nothing") for _ in range(count)).apply_async()
    ground.wait_empty()


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "asyncio"])
def test_p12_memory_is_flat_over_thirty_thousand_tasks(ground: Ground, pool: str):
    worker = ground.worker("-P", pool, "-c", "1")
    # The first ones write to pages that template and child had shared: each counts twice from then on.
    run(ground, 10_000)
    before, pids = own_memory(worker.tree()), worker.tree()
    for _ in range(3):
        run(ground, 10_000)
    assert worker.tree() == pids
    assert own_memory(pids) - before < 1 * MIB  # 35 bytes a task


def test_p12_a_supervisor_has_twelve_megabytes_of_its_own(ground: Ground):
    worker = ground.worker("-P", "threads", "-c", "4")
    run(ground, 10_000)
    own = own_memory([worker.pid])
    print(f"{own:,} bytes")
    assert own < 12 * MIB


def addresses(redis: PrivateRedis) -> set[str]:
    """Who is connected to the server, this question apart."""
    with redis.client() as client:
        own = client.call("CLIENT", "ID")
        lines = client.call("CLIENT", "LIST").decode().splitlines()
    return {line.split("addr=")[1].split()[0] for line in lines if not line.startswith(f"id={own} ")}


@pytest.mark.parametrize(
    ("pool", "children"), [("prefork", 4), ("threads", 1), ("gevent", 1), ("asyncio", 1)]
)
def test_p12_one_connection_for_each_child_and_two_for_the_supervisor(
    private_ground: Ground, private_redis: PrivateRedis, pool: str, children: int
):
    worker = private_ground.worker("-P", pool, "-c", "4", worker_lease=1.0)
    assert len(worker.children()) == children
    ours = addresses(private_redis)
    assert len(ours) <= children + 2
    private_ground.send("add", 1).get(timeout=WAIT)
    held = [private_ground.send("holds", "gate") for _ in range(4)]
    for result in held:
        private_ground.wait_note(result, "start")
    private_ground.app.close()
    # What this process had open is gone; results, retries and renewals need no more than is open.
    most = 0

    def is_done() -> bool:
        nonlocal most
        most = max(most, len(addresses(private_redis)))
        return len(private_ground.notes(what="end")) == 4

    private_ground.open("gate")
    wait_until(is_done, private_ground.told)
    assert most <= children + 2
    assert worker.stop() == 0
    private_ground.app.close()
    wait_until(lambda: not addresses(private_redis))
