"""P12: memory does not grow with tasks or with the queue; connections are few."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from harness import WAIT, wait_until

from celeriac import group
from tests.guarantees.ground import Ground, Server, own_memory
from tests.private_rabbitmq import PrivateRabbit
from tests.processes import templates

MIB = 1024 * 1024


def run(ground: Ground, count: int) -> None:
    group(ground.app.signature("deeds.nothing") for _ in range(count)).apply_async()
    wait_until(ground.is_empty, ground.told, 4 * WAIT)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "asyncio"])
def test_p12_memory_is_flat_over_thirty_thousand_tasks(ground: Ground, pool: str):
    worker = ground.worker("-P", pool, "-c", "1", worker_template_keepalive=1)
    # The first ones write to pages that template and child had shared.
    run(ground, 10_000)
    # The template has one child and is not needed. When it ends, what they still shared counts as the child's.
    wait_until(lambda: not templates(worker.pid), ground.told)
    pids = [worker.pid, *worker.children()]
    before = own_memory(pids)
    for _ in range(3):
        run(ground, 10_000)
    assert [worker.pid, *worker.children()] == pids
    assert own_memory(pids) - before < 1 * MIB  # 35 bytes a task


def test_p12_a_supervisor_has_twelve_megabytes_of_its_own(ground: Ground):
    worker = ground.worker("-P", "threads", "-c", "4")
    run(ground, 10_000)
    own = own_memory([worker.pid])
    print(f"{own:,} bytes")
    # psycopg takes asyncio, logging and ssl along: docs/guarantees.md.
    assert own < (26 if ground.url.startswith("postgresql:") else 12) * MIB


def test_p12_so_it_is_on_postgresql(postgres_place: str, postgres_url: str, tmp_path: Path):
    ground = Ground(tmp_path, f"{postgres_place}&application_name={tmp_path.name}")
    worker = ground.worker("-P", "prefork", "-c", "4", worker_lease=1.0)
    held = [ground.send("holds", "gate") for _ in range(4)]
    for result in held:
        ground.wait_note(result, "start")
    ground.app.broker.close()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        wait_until(lambda: connection.execute(ours, [tmp_path.name]).fetchone() == (4 + 2,), ground.told)
    ground.open("gate")
    assert worker.stop() == 0
    ground.close()


def addresses(server: Server) -> set[str]:
    """Who is connected to the server, this question apart."""
    if isinstance(server, PrivateRabbit):
        return {str(port) for port in server.clients()}
    with server.client() as client:
        own = client.call("CLIENT", "ID")
        lines = client.call("CLIENT", "LIST").decode().splitlines()
    return {line.split("addr=")[1].split()[0] for line in lines if not line.startswith(f"id={own} ")}


@pytest.mark.parametrize(
    ("pool", "children"), [("prefork", 4), ("threads", 1), ("gevent", 1), ("asyncio", 1)]
)
def test_p12_one_connection_for_each_child_and_two_for_the_supervisor(
    private_ground: Ground, private_server: Server, pool: str, children: int
):
    worker = private_ground.worker("-P", pool, "-c", "4", worker_lease=1.0)
    assert len(worker.children()) == children
    ours = addresses(private_server)
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
        most = max(most, len(addresses(private_server)))
        return len(private_ground.notes(what="end")) == 4

    private_ground.open("gate")
    wait_until(is_done, private_ground.told)
    assert most <= children + 2
    assert worker.stop() == 0
    private_ground.app.close()
    wait_until(lambda: not addresses(private_server))
