"""`celeriac move` as people run it: between real servers, with workers on both sides, and killed half-way."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from harness import WAIT, Site, wait_until
from tests import rabbitmq
from tests.processes import bare_environ

from celeriac import brokers, clock, message
from celeriac.brokers.abilities import Foretells, Movable
from celeriac.brokers.contract import Ack, Bury, Outgoing, Revocation, Settlement
from celeriac.testing.stand import name_of

#: Every kind of broker as the source and as the target of another kind.
AROUND = [("sqlite", "redis"), ("redis", "postgres"), ("postgres", "sqlite")]
#: The same of one that cannot tell what is delayed, in a run of its own.
BLIND = [
    pytest.param("rabbitmq", "redis", marks=rabbitmq.MARKS),
    pytest.param("redis", "rabbitmq", marks=rabbitmq.MARKS),
]
PAIRS = [(source, target) for source, _ in AROUND for target, _ in AROUND]
#: `celeriac`, with crates of 10 messages, in a process that ends itself by SIGKILL after so many calls and returns, of
#: Python or C, since it began to move; then in another one, until one comes to its end. Tells how many were killed.
DYING = """
import os, random, signal, sys
from celeriac import brokers
from celeriac.cli import main, move

draw, source, target = random.Random(int(sys.argv[1])), sys.argv[2], sys.argv[3]
# Imports the adapters.
brokers.connect(source), brokers.connect(target)

def count(frame, event, arg):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def dying(*arguments, begin=move._move, **options):
    sys.setprofile(count)
    return begin(*arguments, **options)

move._CRATE, move._move = 10, dying
for kills in range(21):
    left = draw.randrange(4000) if kills < 20 else 10**9
    pid = os.fork()
    if not pid:
        code = main(["move", "--from", source, "--to", target])
        sys.setprofile(None)
        sys.stdout.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != -signal.SIGKILL:
        print(kills)
        sys.exit(code)
"""


@pytest.fixture
def connect() -> Iterator[Callable[[str], brokers.Broker]]:
    made: list[brokers.Broker] = []

    def make(url: str) -> brokers.Broker:
        made.append(brokers.connect(url))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


def move(source: str, target: str | None, *argv: str, code: int = 0, program: tuple[str, ...] = ()) -> str:
    """What `celeriac move` prints on both outputs; its exit code must be that."""
    to = () if target is None else ("--to", target)
    done = subprocess.run(
        [sys.executable, *(program or ("-m", "celeriac")), "move", "--from", source, *to, *argv],
        capture_output=True, text=True, timeout=150, check=False, env=bare_environ(),
    )  # fmt: skip
    told = done.stdout + done.stderr
    assert done.returncode == code, f"exit code {done.returncode}: {told}"
    assert "Traceback" not in told
    return told


def last(told: str) -> str:
    return told.strip().rpartition("\n")[2]


def named(name: str) -> bytes:
    return message.VERSION + message.new_key() + name.encode()


def fill(broker: brokers.Broker, count: int, queue: str = "mail", *, delayed: bool = True) -> Counter[str]:
    """So many messages: two thirds ready, with every priority, one delayed of six if that is said, and one dead. Their
    names."""
    letters = [Outgoing(queue, named(f"dead-{number}")) for number in range(count // 6)]
    broker.send(letters, WAIT)
    consumer = broker.consumer([queue], "undertaker", lease=60.0, max_deliveries=3)
    while taken := consumer.take(100, 0):
        consumer.settle([Settlement(one, Bury("reason", name_of(one.data))) for one in taken])
    consumer.close()
    due_at = clock.now() + 3600
    later = [
        Outgoing(queue, named(f"delayed-{number}"), number % 10, due_at + number)
        for number in range(count // 6 if delayed else 0)
    ]
    ready = [
        Outgoing(queue, named(f"ready-{number}"), number % 10)
        for number in range(count - len(letters) - len(later))
    ]
    broker.send(later + ready, WAIT)
    return Counter(name_of(one.data) for one in (*letters, *later, *ready))


def contents(broker: brokers.Broker, queue: str = "mail") -> Counter[str]:
    """The names of all that is there, as far as the broker can tell; what is ready is taken."""
    found = Counter(letter.detail for letter in broker.dead(queue, limit=100_000))
    if isinstance(broker, Foretells):
        found.update(name_of(data) for _, data in broker.delayed(queue, 100_000))
    consumer = broker.consumer([queue], "reader", lease=60.0, max_deliveries=3)
    while taken := consumer.take(500, 0):
        found.update(name_of(one.data) for one in taken)
        consumer.settle([Settlement(one, Ack()) for one in taken])
    consumer.close()
    return found


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_everything_is_moved_and_counted_on_both_sides(make_url, connect, source, target):
    here, there = make_url(source), make_url(target)
    broker, other = connect(here), connect(there)
    sent = fill(broker, 600)
    other.send([Outgoing("mail", named("before"))], WAIT)
    told = move(here, there)
    assert "Moved 600 messages (400 ready, 100 scheduled, 100 dead) from " in last(told)
    assert re.search(r"which has 0 now, to .*, which has 601\.$", last(told))
    stats, there_now = broker.stats("mail"), other.stats("mail")
    assert (stats.ready, stats.delayed, stats.dead, stats.running) == (0, 0, 0, 0)
    assert (there_now.ready, there_now.delayed, there_now.dead) == (401, 100, 100)
    assert contents(other) == sent + Counter(["before"])
    assert "Moved 0 messages" in move(here, there)


@pytest.mark.parametrize(("source", "target"), BLIND)
def test_what_can_be_seen_is_moved_from_and_to_rabbitmq(make_url, connect, source, target):
    here, there = make_url(source), make_url(target)
    broker, other = connect(here), connect(there)
    sent = fill(broker, 240, delayed=False)
    told = move(here, there)
    assert "Moved 240 messages (200 ready, 0 scheduled, 40 dead) from " in told
    assert re.search(r"which has 0 now, to .*, which has 240\.$", told, re.MULTILINE)
    assert ("stays there until it is due" in told) == (source == "rabbitmq")
    assert contents(other) == sent
    assert "Moved 0 messages" in move(here, there)


@pytest.mark.rabbitmq
@pytest.mark.xdist_group("rabbitmq")
def test_what_is_scheduled_at_rabbitmq_is_moved_when_it_is_due(make_url, connect):
    here, there = make_url("rabbitmq"), make_url("sqlite")
    broker, other = connect(here), connect(there)
    due_at = clock.now() + 2.0
    broker.send([Outgoing("mail", named("now")), Outgoing("mail", named("later"), 5, due_at)], WAIT)
    moved: Counter[str] = Counter()

    def is_moved() -> bool:
        move(here, there)
        moved.update(contents(other))
        return moved == Counter(["now", "later"])

    wait_until(is_moved)
    assert clock.now() >= due_at


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("source", "target"), [*AROUND, *BLIND])
def test_killed_anywhere_and_run_again_it_moves_each_message_once(make_url, connect, source, target):
    here, there = make_url(source), make_url(target)
    broker, other = connect(here), connect(there)
    sent = fill(broker, 240, delayed="rabbitmq" not in (source, target))
    seed = random.randrange(10**6)
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(seed), here, there],
        capture_output=True, text=True, timeout=150, check=False, env=bare_environ(),
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
    kills = int(last(done.stdout))
    assert kills > 1, f"seed {seed}"
    assert contents(other) == sent, f"seed {seed}, {kills} kills"
    assert contents(broker) == Counter(), f"seed {seed}, {kills} kills"


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("source", "target"), AROUND)
def test_workers_run_on_both_sides_meanwhile(make_url, tmp_path, source, target):
    folders = [tmp_path / name for name in ("here", "there")]
    for folder in folders:
        folder.mkdir()
    here, there = (
        Site(folder, make_url(kind)) for folder, kind in zip(folders, (source, target), strict=True)
    )
    try:
        worker = here.worker("-c", "1", "--prefetch-multiplier", "1")
        there.worker("-c", "1")
        running = here.send("says_late", "gate")
        here.wait_note(running, "start")
        sent = [here.call("plain", number, countdown=number % 3 * 0.4) for number in range(150)]
        told = move(here.url, there.url)
        assert re.search(r" and [1-9]\d* that run\. Run this again", told)
        here.open("gate")
        here.wait_empty()
        there.wait_empty()
        told = move(here.url, there.url)
        assert " that run." not in told
        there.wait_empty()
        notes = [note for site in (here, there) for note in site.notes()]
        runs = Counter(note["id"] for note in notes if note["what"] in ("start", "plain"))
        assert runs == Counter([running.id, *(one.id for one in sent)])
        assert worker.stop() == 0
    finally:
        here.close()
        there.close()


def test_what_is_on_its_way_is_told_and_another_target_refused(make_url, connect):
    here, there, elsewhere = make_url("sqlite"), make_url("sqlite"), make_url("sqlite")
    broker = connect(here)
    assert isinstance(broker, Movable)
    broker.send([Outgoing("mail", named("a")), Outgoing("mail", named("b"))], WAIT)
    crate = broker.pack("mail", connect(there).place, 1)
    told = move(here, elsewhere, code=64)
    assert "1 message of mail are on their way" in told
    assert connect(elsewhere).queues() == []
    queues = subprocess.run(
        [sys.executable, "-m", "celeriac", "-b", here, "queues"],
        capture_output=True, text=True, timeout=150, check=True, env=bare_environ(),
    )  # fmt: skip
    assert "1 message of mail are on their way to " in queues.stderr
    assert crate is not None
    assert "Moved 2 messages" in last(move(here, there))


def test_what_cannot_arrive_any_more_is_given_back(make_url, connect):
    here = make_url("sqlite")
    broker = connect(here)
    assert isinstance(broker, Movable)
    broker.send([Outgoing("mail", named("a"), 5), Outgoing("mail", named("b"))], WAIT)
    assert broker.pack("mail", "gone", 1) is not None
    assert "Gave back 1 message at " in move(here, None, "--give-back")
    assert "Gave back 0 messages at " in move(here, None, "--give-back")
    assert contents(broker) == Counter("ab")


def test_only_the_named_queues_are_moved(make_url, connect):
    here, there = make_url("sqlite"), make_url("sqlite")
    broker = connect(here)
    for queue in ("mail", "reports", "slow"):
        broker.send([Outgoing(queue, named("a"))], WAIT)
    assert "Moved 2 messages" in move(here, there, "--queue", "mail,slow")
    assert connect(there).queues() == ["mail", "slow"]
    assert broker.stats("reports").ready == 1


def test_what_is_revoked_stays_revoked(make_url, connect):
    here, there = make_url("sqlite"), make_url("sqlite")
    broker, key = connect(here), message.new_key()
    broker.send([Outgoing("mail", named("a"))], WAIT)
    broker.revoke("mail", [Revocation(key)], 60.0)
    broker.ban(b"ban", 60.0)
    move(here, there)
    assert connect(there).revoked("mail") == [Revocation(key)]
    assert connect(there).bans() == [b"ban"]


def test_mistakes_are_told_before_anything_is_moved(make_url, connect, tmp_path):
    here = make_url("sqlite")
    connect(here).send([Outgoing("mail", named("a"))], WAIT)
    assert "the same place" in move(here, here, code=64)
    assert "no queue 'mial'. Did you mean 'mail'?" in move(here, make_url("sqlite"), "-Q", "mial", code=64)
    assert "no such file" in move(f"sqlite:///{tmp_path}/none.sqlite", here, code=64)
    assert not (tmp_path / "none.sqlite").exists()
    assert "cannot be moved" in move(here, "memory://", code=64)
    assert "Say --from URL" in move("", here, code=64)
    assert connect(here).stats("mail").ready == 1


def test_without_a_target_it_is_the_broker_of_the_application(make_url, connect):
    here, there = make_url("sqlite"), make_url("sqlite")
    connect(here).send([Outgoing("mail", named("a"))], WAIT)
    assert "Moved 1 message" in move(here, None, "-b", there)
    wait_until(lambda: connect(there).stats("mail").ready == 1, "moved")
