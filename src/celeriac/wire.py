"""What a worker's processes say to each other.

Three kinds of process: the *supervisor* (no user code), the *template* (has imported the application, forks),
and the *children* (take messages and run them). Each child has two things in common with the supervisor:

- a `Channel`: a stream socket for the few words below. Its end of file is how each side learns that the other
  is gone; a child that reads it stops in order, as after `Drain`.
- a `board.ChildBoard`: a memory map that the child writes and the supervisor reads, so that a task costs no message
  and a stuck child can still be looked at.

Words only: nothing here starts, ends or judges a process. The supervisor reads it too, so it stays cheap to
import.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from celeriac import native

# Exit codes of `celeriac worker`; those above 63 are named in sysexits(3).
EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 64
EXIT_BROKER_UNAVAILABLE: Final = 69
EXIT_CANNOT_CREATE: Final = 73

#: What each exit code of a worker means, for `--help` and the manual.
EXIT_CODES: Final[Mapping[int, str]] = {
    EXIT_OK: "stopped in order",
    EXIT_FAILURE: "the application cannot be imported, or no child comes up",
    EXIT_USAGE: "a wrong option, or a setting that cannot work",
    EXIT_BROKER_UNAVAILABLE: "the broker was away: at the start with broker_connection_retry_on_startup off, "
    "or for longer than broker_connection_lost_timeout",
    EXIT_CANNOT_CREATE: "the pidfile or the log file cannot be made, or the port of --health is taken",
}


class Word(msgspec.Struct, frozen=True, tag=True):
    """Base of all messages between a worker's processes."""


# ---- supervisor -> template


#: Celery's `queue_order_strategy`: the same share for each queue, strictly by name, strictly as they are given.
QUEUE_ORDERS: Final = ("round_robin", "sorted", "priority")


class WorkerOptions(Word, frozen=True, kw_only=True):
    """What the command line asked for; the first word to a template.

    `settings`: setting name -> value, over the application's own. `queues` empty: those of `task_queues`,
    or the default queue. `pool`, `concurrency` and `processes` None: the application's settings decide.
    `autoscale`: how many tasks run at once, at least and at most. `weights`: of queues, where they are to have shares;
    `queue_order`: one of `QUEUE_ORDERS`, "" where the settings decide.
    `boot_timeout`: seconds that the template has to import the application.
    `health_fd`: the supervisor's own descriptor of a socket that listens for health probes.
    `learned`: modules that the queues have needed so far, where the application's are imported when they are needed.
    """

    app: str = ""
    queues: tuple[str, ...] = ()
    weights: dict[str, int] = {}
    queue_order: str = ""
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    pool: str | None = None
    concurrency: int | None = None
    processes: int | None = None
    autoscale: tuple[int, int] | None = None
    hostname: str = ""
    loglevel: str = "INFO"
    logfile: str | None = None
    quiet: bool = False
    boot_timeout: float = 60.0
    pidfile: str | None = None
    health_fd: int | None = None
    learned: tuple[str, ...] = ()
    settings: dict[str, Any] = {}


class Fork(Word, frozen=True):
    """Fork child `number`, which takes messages under `owner`. Descriptors: channel, board.

    The child calls `celeriac.worker.main.run_child(app, options, fork, channel, board)`, which returns its
    exit code. A standby child gets ready, says so, and takes nothing before `Begin`: it replaces another.
    `post`: from which broker of the list it takes, for all its life.
    """

    number: int
    owner: str
    slots: int
    standby: bool = False
    post: int = 0


class Up(Word, frozen=True):
    """As many of your children as were wished take messages: user code that waits for this may be told."""


class Stopping(Word, frozen=True):
    """An orderly stop has begun, for that reason (a signal's name, or text); the worker will exit with that code.

    `how`: `Warm`, or `Cold` where running tasks are given no time.
    """

    reason: str
    how: str
    code: int


# ---- template -> supervisor


class Broadcast(msgspec.Struct, frozen=True):
    """A queue of whose messages this worker has copies, its own queue for these, and for how many seconds it has them
    while it does not renew that."""

    name: str
    queue: str
    keep: float


class Ready(Word, frozen=True, kw_only=True):
    """The application is imported. What the supervisor needs to know of its settings, as effective values.

    `processes` children of `slots` slots each, and up to `most_processes` where the worker scales itself.
    Times in seconds, memory in KiB. `broker_retries`: how often
    in a row a broker that is away is tried again, None for ever; `broker_wait_at_start`: whether also at the start.
    `revoke_grace`: seconds that a run has after it was told that it is revoked. `template_keepalive`: seconds without
    need after which the template may be let go; None: it may not. `broker_patience`: seconds that a broker of several
    in `broker_url` must have been away before the worker goes to another; `revoke_keep`: for so long (seconds) it is
    remembered at the next one what is revoked.
    """

    version: str
    hostname: str
    app: str
    broker_url: str
    broker_options: dict[str, Any]
    broker_lost_timeout: float | None
    broker_patience: float = 5.0
    broker_retries: int | None = None
    broker_wait_at_start: bool = True
    results: str
    queues: tuple[str, ...]
    broadcasts: tuple[Broadcast, ...] = ()
    queue_order: str = ""
    tasks: tuple[str, ...]
    pool: str
    concurrency: int
    processes: int
    slots: int
    most_processes: int | None = None
    scale_keepalive: float = 30.0
    lease: float
    max_deliveries: int
    dead_letter_max: int | None = None
    dead_letter_expires: float | None = None
    shutdown_timeout: float
    start_timeout: float
    max_tasks: int | None = None
    max_memory: int | None = None
    kill_above_memory: int | None = None
    max_age: float | None = None
    max_age_variance: float = 0.0
    time_limit: float | None = None
    soft_time_limit: float | None = None
    remote_control: bool = True
    revoke_grace: float = 5.0
    revoke_keep: float = 0.0
    template_keepalive: float | None = None


class ImportFailed(Word, frozen=True):
    """The application cannot be used: the traceback, and which exit code that is worth."""

    text: str
    code: int = EXIT_FAILURE


class Forked(Word, frozen=True):
    """Child `number` has this process id."""

    number: int
    pid: int


class Exited(Word, frozen=True):
    """A child has ended; `status` as of `waitpid`."""

    pid: int
    status: int


# ---- child -> supervisor


class ChildReady(Word, frozen=True):
    """I take messages from now on, or from `Begin` on if I am a standby. `pid` is my own."""

    pid: int


class Owner(Word, frozen=True):
    """I take under this owner from now on: the lease of the one before was lost."""

    owner: str


class Retiring(Word, frozen=True):
    """I have taken my last message (`max_tasks_per_child`): start my replacement.

    When I am done I say `Stopped` and exit with 0.
    """

    reason: str


class Imported(Word, frozen=True):
    """I have imported these task modules, which a message asked for. From a child; from a template: forks have them."""

    modules: tuple[str, ...]


class Stopped(Word, frozen=True):
    """All is settled or given back, and my lease is ended; I exit next."""

    reason: str = ""


class Import(Word, frozen=True):
    """To a template: import these, so that the children you fork have them."""

    modules: tuple[str, ...]


# ---- supervisor -> child


class Begin(Word, frozen=True):
    """To a standby child: take messages from now on. It may come before the child has said `ChildReady`."""


class Drain(Word, frozen=True):
    """Take nothing more; give back what was not started; finish and settle what runs; say `Stopped`; exit 0.

    The end of the channel's file means the same.
    """


class Revoke(Word, frozen=True):
    """The tasks of these keys are revoked: what waits is not to begin, nor what comes within `keep` seconds.

    With `terminate` a run is told, and in threads and greenlets given up after `grace` seconds; elsewhere the
    supervisor kills the process then. `grace` 0: it is not told.
    """

    keys: tuple[bytes, ...]
    keep: float
    terminate: bool = False
    grace: float = 0.0


class Question(Word, frozen=True):
    """To a child or a template: what do you know of this? (`notices.ABOUT_TASKS`, `notices.ABOUT_APP`.)

    The answer is a `Reply` of that number, of about `room` bytes at most.
    """

    number: int
    about: str
    items: tuple[str, ...] = ()
    room: int = 65536


class Reply(Word, frozen=True):
    """The answer to the question of that number, in msgpack."""

    number: int
    body: bytes


class GiveBack(Word, frozen=True):
    """Give back what was not started: it may be revoked, which the broker knows when it is taken again."""


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(
    WorkerOptions
    | Ready
    | ImportFailed
    | Forked
    | Exited
    | Fork
    | ChildReady
    | Owner
    | Retiring
    | Stopped
    | Imported
    | Import
    | Begin
    | Drain
    | Revoke
    | GiveBack
    | Question
    | Reply
    | Up
    | Stopping
)
pack: Final = _ENCODER.encode
#: The reverse of `pack`.
unpack: Final = _DECODER.decode

_LENGTH: Final = struct.Struct("!I")
_CHUNK: Final = 65536
# A program that a task starts must not keep its child's channel open.
_CLOSE_ON_EXEC: Final[int] = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Channel:
    """One end of a connection between two of a worker's processes.

    A blocking one waits in `receive`; a non-blocking one (the supervisor's: it must never wait for a child)
    keeps what cannot be sent until `flush`. A broken connection is silent on sending: the end of file tells
    it. Threads may send while another receives.
    """

    def __init__(self, sock: socket.socket, *, blocking: bool = True) -> None:
        self._sock = sock
        self._unread = bytearray()
        self._unsent: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._fds: deque[int] = deque()
        # The system's own, and one that a signal's handler may have already: it may speak, too.
        self._speaking = native.RLock()
        self.at_end = False
        self.set_blocking(blocking)

    def set_blocking(self, blocking: bool) -> None:
        """Whether sending and receiving wait."""
        self._sock.setblocking(blocking)

    def fileno(self) -> int:
        """The socket's descriptor; -1 when closed."""
        return self._sock.fileno()

    def send(self, word: Word, fds: Sequence[int] = ()) -> None:
        """Send a word, with copies of descriptors if given, or keep it for `flush` where that would block.

        The descriptors must stay open until `pending` is False.
        """
        data = _ENCODER.encode(word)
        with self._speaking:
            self._unsent.append((memoryview(_LENGTH.pack(len(data)) + data), tuple(fds)))
            self.flush()

    @property
    def pending(self) -> bool:
        """Whether something waits for `flush`."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Send what is kept, as far as it goes."""
        with self._speaking:
            self._flush()

    def _flush(self) -> None:
        while self._unsent:
            data, fds = self._unsent[0]
            try:
                sent = socket.send_fds(self._sock, [data], fds) if fds else self._sock.send(data)
            except BlockingIOError:
                return
            except OSError:
                self._unsent.clear()
                return
            if sent == len(data):
                self._unsent.popleft()
            else:
                self._unsent[0] = (data[sent:], ())

    def receive(self) -> Word | None:
        """The next word. A blocking channel waits for it; None is the end of file.

        A non-blocking channel returns None where there is no whole word yet; `at_end` then tells which.
        """
        while (frame := self._frame()) is None and not self.at_end:
            if not self._read():
                return None
        return None if frame is None else _DECODER.decode(frame)

    def words(self) -> Iterator[Word]:
        """Every word that is there; for a blocking channel every word until the end of file."""
        while (word := self.receive()) is not None:
            yield word

    def _read(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, _CHUNK, 8, _CLOSE_ON_EXEC)
        except BlockingIOError:
            return False
        except OSError:
            data, fds = b"", []
        self._fds.extend(fds)
        self._unread += data
        self.at_end = not data
        return True

    def _frame(self) -> bytes | None:
        head = _LENGTH.size
        if len(self._unread) < head:
            return None
        end = head + _LENGTH.unpack_from(self._unread)[0]
        if len(self._unread) < end:
            return None
        frame = bytes(self._unread[head:end])
        del self._unread[:end]
        return frame

    def take_fd(self) -> int:
        """The next of the descriptors that came with what was received; the caller owns it."""
        return self._fds.popleft()

    def finish(self) -> None:
        """Say nothing more: the other side reads the end of file. What it still says can be read."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket, and descriptors that nobody took. Idempotent."""
        self._sock.close()
        while self._fds:
            os.close(self._fds.popleft())


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets for `Channel`."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
