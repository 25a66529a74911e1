"""P11: plain data only, and no password where people look."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import WAIT
from workload import make_app

from celeriac.exceptions import CeleriacError, EncodeError
from tests.guarantees.ground import Ground, RabbitGround
from tests.guarantees.rabbitmq_outages import RabbitWire, stopped
from tests.servers import PrivateRedis

PASSWORD = "swordfish-4711"


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_p11_pickle_is_refused_unless_it_is_accepted(ground: Ground):
    bomb = Bomb(ground.folder / "exploded")
    with pytest.raises(EncodeError):
        ground.call("add", bomb)
    with pytest.raises(Exception, match="pickle"):
        ground.call("add", bomb, serializer="pickle")
    assert ground.is_empty()
    with make_app(ground.url, accept_content=["pickle", "msgpack"]) as careless:
        careless.tasks["workload.add"].apply_async((bomb,), serializer="pickle")
    ground.worker("-c", "1")
    (letter,) = ground.wait_dead()
    assert letter.reason == "unreadable" and "pickle" in letter.detail
    assert not bomb.path.exists()
    pickle.loads(pickle.dumps(bomb))
    assert bomb.path.exists(), "it would have"


def test_p11_a_password_is_in_no_log_no_error_and_no_command_line(
    private_redis: PrivateRedis, tmp_path: Path
):
    with private_redis.client() as client:
        client.call("CONFIG", "SET", "requirepass", PASSWORD)
    url = f"redis://:{PASSWORD}@127.0.0.1:{private_redis.port}/0"
    with contextlib.closing(Ground(tmp_path, url)) as ground:
        look_for_password(ground, private_redis.stop, private_redis.start)


@pytest.mark.private_rabbitmq
@pytest.mark.parametrize("wire", ["rabbitmq"], indirect=True)
def test_p11_a_password_of_rabbitmq_is_in_none_either(wire: RabbitWire, tmp_path: Path):
    wire.change_password(PASSWORD)
    url = f"amqp://{wire.user}:{PASSWORD}@127.0.0.1:{wire.proxy.port}/{wire.host}"
    with contextlib.ExitStack() as stack:
        ground = stack.enter_context(contextlib.closing(RabbitGround(tmp_path, wire.server, url)))
        outage = contextlib.ExitStack()
        look_for_password(ground, lambda: outage.enter_context(stopped(wire)), outage.close)


def look_for_password(ground: Ground, stop: Callable[[], object], start: Callable[[], object]) -> None:
    """Wherever a worker, a sender and commands may write it, while the server is up and away, and with a wrong one."""
    worker = ground.worker("-c", "1", "-l", "DEBUG")
    assert ground.send("add", 1, 2).get(timeout=WAIT) == 3
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in worker.tree()]
    stop()
    worker.wait_log("Cannot connect to")
    errors: list[BaseException] = []
    for action in (
        lambda: ground.send("add", 1),
        lambda: ground.broker.stats("celery"),
        lambda: ground.call("add", 1).get(timeout=1),
    ):
        with pytest.raises(CeleriacError) as caught:
            action()
        errors.append(caught.value)
    assert worker.stop() == 0
    while errors:
        error = errors.pop()
        lines += [str(error), repr(error)]
        errors += [one for one in (error.__cause__, error.__context__) if one is not None]
    lines += [repr(ground.app), repr(ground.broker), worker.log()]
    start()
    wrong = ground.url.replace(PASSWORD, "swordfish-0")
    for command in ("queues", "report", "config"):
        done = subprocess.run(
            [sys.executable, "-m", "celeriac", "-b", wrong, command],
            capture_output=True, text=True, timeout=WAIT, check=False, cwd=ground.folder,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        lines += [done.stdout, done.stderr]
    assert [line for line in lines if "swordfish" in line] == []
