"""A RabbitMQ cluster of three nodes on loopback, some of which a test kills, stops and starts again."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.private_rabbitmq import PATIENCE, PrivateRabbit

NODES = 3
#: Seconds without a sign of life after which nodes hold one another to be dead, one quarter more or less; the
#: server's own default is 60.
_TICK_TIME = 8
#: Whether all members of quorum queues have applied what their leaders had as these were asked.
_CAUGHT_UP = """
    Applied = fun(Member) -> case catch ra:local_query(Member, fun rabbit_fifo:query_messages_total/1) of
        {ok, {{Index, _}, _}, _} -> Index; _ -> -1 end end,
    lists:all(fun(Q) ->
        {Name, _} = amqqueue:get_pid(Q),
        case ra:members({Name, node()}, 1000) of
            {ok, _, Leader} ->
                Index = Applied(Leader),
                lists:all(fun(Node) -> Applied({Name, Node}) >= Index end, maps:get(nodes, amqqueue:get_type_state(Q)));
            _ -> false end
        end, [Q || Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue]).
"""
_RUNNING = "length(rabbit_nodes:all_running())."


def _told(node: PrivateRabbit, expression: str) -> str:
    """What that is there; nothing while the node has other things to do."""
    try:
        return node.evaluate(expression, 0.0)
    except RuntimeError:
        return ""


class RabbitCluster:
    """The nodes, each with a folder of its own below `folder`."""

    def __init__(self, folder: Path) -> None:
        cookie = secrets.token_hex(10)
        self.nodes = [self._node(folder / f"node-{number}", cookie) for number in range(NODES)]
        names = [node.node for node in self.nodes]
        for node in self.nodes:
            node.join(names, f"net_ticktime = {_TICK_TIME}\ncluster_partition_handling = pause_minority\n")
        try:
            with ThreadPoolExecutor(NODES) as starting:
                list(starting.map(PrivateRabbit.start, self.nodes))
            self.wait_whole()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _node(folder: Path, cookie: str) -> PrivateRabbit:
        folder.mkdir()
        return PrivateRabbit(folder, cookie=cookie)

    def url(self, host: str = "", first: int = 0) -> str:
        """Of all nodes, for a virtual host."""
        places = [f"127.0.0.1:{node.port}" for node in self.nodes]
        return f"amqp://guest:guest@{','.join(places[first:] + places[:first])}/{host}"

    def wait_whole(self) -> None:
        """Until all nodes are one cluster, as each of them sees it, and each has what quorum queues had in store."""
        deadline = time.monotonic() + PATIENCE
        while (
            any(_told(node, _RUNNING) != f"{NODES}" for node in self.nodes)
            or _told(self.nodes[0], _CAUGHT_UP) != "true"
        ):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{NODES} nodes of RabbitMQ do not find together")
            time.sleep(0.1)

    @property
    def pids(self) -> list[int]:
        return [node.pid for node in self.nodes if node.is_running]

    def mend(self) -> None:
        """Start what a test has left dead."""
        for node in self.nodes:
            node.start()
        self.wait_whole()

    def close(self) -> None:
        """End them. Their folder is the caller's."""
        for node in self.nodes:
            node.close()

    @contextlib.contextmanager
    def virtual_host(self) -> Iterator[str]:
        """The name of a new one, which goes away with all that is in it."""
        with self.nodes[0].virtual_host() as url:
            yield url.rpartition("/")[2]
