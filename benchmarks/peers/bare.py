"""No queue at all: a loop of plain Redis commands around the same task, which is the limit that the others are held to.

Sending is `RPUSH` of the packed call by redis-py, as a program without a queue would do it, and in bulk pieces of a
thousand. The worker takes a hundred calls, notes them in a list of its own, decodes each, calls the task, and deletes
that list: four commands for a hundred calls, over a bare socket. Nobody looks for what a dead worker held.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from itertools import count
from typing import Any

import msgspec

from peers import NAP, URL, journal, tally
from plain_redis import Redis

LIBRARY = "hiredis"
CANNOT: dict[str, str] = {}
QUEUE, RESULT_EXPIRES = "bare", 3600
PIECE = 100

PORT = int(URL.rpartition(":")[2].partition("/")[0])
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[bytes, str, list[Any], dict[str, Any]]).decode
_redis: list[Any] = []


def scrape(number: int, url: str = "", depth: int = 1) -> None:
    tally.add()


def add(x: int, y: int) -> int:
    tally.add()
    return x + y


def nap() -> None:
    time.sleep(NAP)
    tally.add()


def stamp(sent: float) -> None:
    journal.write(sent)


TASKS = {"scrape": scrape, "add": add, "nap": nap, "stamp": stamp}


def _packed(name: str, args: Any, kwargs: dict[str, Any]) -> bytes:
    return _pack((os.urandom(16), name, args, kwargs))


def _send(name: str) -> Any:
    import redis

    push = redis.Redis.from_url(URL).rpush

    def send(*args: Any, **kwargs: Any) -> None:
        push(QUEUE, _packed(name, args, kwargs))

    return send


class _Sends(dict[str, Any]):
    """Connects when it sends: a worker of this file must not import redis-py."""

    def __missing__(self, name: str) -> Any:
        self[name] = _send(name)
        return self[name]


SEND = _Sends()
opened = None


def send_many(calls: list[tuple[int, dict[str, Any]]]) -> None:
    redis = Redis(PORT)
    for place in range(0, len(calls), 1000):
        packed = [_packed("scrape", (number,), options) for number, options in calls[place : place + 1000]]
        redis.call("RPUSH", QUEUE, *packed)


def _run(data: bytes, redis: Redis) -> None:
    key, name, args, kwargs = _unpack(data)
    result = TASKS[name](*args, **kwargs)
    if result is not None:
        redis.call("SET", key, _pack(result), "EX", RESULT_EXPIRES)


def _work(mine: str, most: int, forks: bool) -> None:
    redis = Redis(PORT)
    while True:
        first = redis.call("BLMOVE", QUEUE, mine, "LEFT", "RIGHT", 0)
        held = [first]
        if most > 1 and (more := redis.call("LPOP", QUEUE, most - 1)):
            redis.call("RPUSH", mine, *more)
            held += more
        for data in held:
            if forks:
                if (pid := os.fork()) == 0:
                    _run(data, redis)
                    os._exit(0)
                os.waitpid(pid, 0)
            else:
                _run(data, redis)
        redis.call("DEL", mine)


def work(children: int, threads: int, forks: bool) -> None:
    """The worker: so many processes of so many threads, or a process for every task."""
    for _ in range(children - 1):
        if os.fork() == 0:
            break
    names = count()
    most = 1 if forks or threads > 1 else PIECE
    for _ in range(threads - 1):
        threading.Thread(target=_work, args=(f"{QUEUE}-{os.getpid()}-{next(names)}", most, forks)).start()
    _work(f"{QUEUE}-{os.getpid()}-{next(names)}", most, forks)


def _command(children: int, threads: int, forks: bool = False) -> list[list[str]]:
    return [[sys.executable, "-m", "peers.bare", str(children), str(threads), str(int(forks))]]


def worker(children: int) -> list[list[str]]:
    return _command(children, 1)


def slots(threads: int) -> list[list[str]]:
    return _command(1, threads)


def recycling(children: int) -> list[list[str]]:
    return _command(children, 1, forks=True)


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1")
