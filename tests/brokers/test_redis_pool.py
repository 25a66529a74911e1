"""A web process with many threads has few connections to its broker, and shares none with its forks."""

from __future__ import annotations

import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

from celeriac import Celeriac
from tests.servers import PrivateRedis, RedisClient

SENDERS = 40
LIMIT = 3


def connections(server: RedisClient) -> int:
    """How many clients are connected, but for the one that asks."""
    return len(server.call("CLIENT", "LIST").splitlines()) - 1


def test_forty_threads_send_over_three_connections(private_redis: PrivateRedis) -> None:
    app = Celeriac(broker=private_redis.url, broker_pool_limit=LIMIT, broker_publish_timeout=20.0)
    most, stop = [0], threading.Event()
    with private_redis.client() as server, ThreadPoolExecutor(SENDERS + 1) as threads:

        def watch() -> None:
            while not stop.is_set():
                most[0] = max(most[0], connections(server))

        watching = threads.submit(watch)
        sent = [threads.submit(app.send_task, "work", (n,), task_id=str(uuid.uuid4())) for n in range(400)]
        for future in sent:
            future.result(30)
        stop.set()
        watching.result(30)
        assert app.broker.stats("celery").ready == 400
        assert 1 <= most[0] <= LIMIT
        assert connections(server) <= LIMIT
        app.close()


def test_a_fork_sends_over_a_connection_of_its_own(private_redis: PrivateRedis) -> None:
    app = Celeriac(broker=private_redis.url, broker_publish_timeout=20.0)
    app.send_task("work", (0,))
    pids: list[int] = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for n in range(25):
                    app.send_task("work", (child, n))
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    for n in range(25):
        app.send_task("work", (n,))
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 4
    assert app.broker.stats("celery").ready == 126
    app.close()
