"""One SQLite file as broker and result store see it: opening it, transactions, waiting for others' commits.

A process has one connection to a file, used by one thread at a time: SQLite lets one writer work anyway, and
a lock of ours is fair where its own polls. The file is in WAL mode with `synchronous=FULL`, so that a commit
survives a power cut (docs/design/0003). Time is the wall clock, which the processes of a machine share.

A connection never crosses a fork: SQLite keeps its locks by process, and a child that inherits them believes
to hold what it does not. So the parent closes before each fork, and both sides open again when they need to.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from celeriac import clock
from celeriac.brokers.contract import Record
from celeriac.exceptions import CeleriacError, ImproperlyConfigured
from celeriac.plugins import nearest, own
from celeriac.urls import Url

if TYPE_CHECKING:
    from celeriac.drivers.bell import Bell

T = TypeVar("T")

SCHEMA_VERSION: Final = 5
APPLICATION_ID: Final = 1128614977
#: RETURNING came with SQLite 3.35 (March 2021).
OLDEST_SQLITE: Final = (3, 35)

#: How often a waiting `take` or watch asks whether another process has committed, where the file's bell cannot be
#: heard: soon after something happened, and when it has been quiet for a while. Measured in docs/design/0003.
SHORTEST_POLL: Final = 0.002
LONGEST_POLL: Final = 0.010
#: The same where it is heard, for who was killed between the commit and the ringing.
BELL_POLL: Final = 0.5
#: Between two attempts to get a lock that another process holds.
SHORTEST_RETRY: Final = 0.0002
LONGEST_RETRY: Final = 0.005

#: Seconds for which somebody who waits for a change lets others use the file before that is an error.
LOOK_PATIENCE: Final = 5.0

#: After so many results, expired ones are deleted, and more of them: the file cannot grow for ever.
PUTS_BETWEEN_SWEEPS: Final = 500
SWEEP_LIMIT: Final = 2_000
#: How long a fork waits for a transaction of another thread.
FORK_PATIENCE: Final = 5.0

_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
#: What a failing write says. EFBIG and a full /dev/shm come as I/O errors, ENOSPC as SQLITE_FULL.
_ADVICE: Final[Mapping[int, str]] = {
    sqlite3.SQLITE_FULL: "the disk (or the file's quota) is full: free some space; nothing was stored",
    sqlite3.SQLITE_IOERR: "the disk is full, a size limit is reached, or the disk fails; nothing was stored",
    sqlite3.SQLITE_READONLY: "the file or its directory is read-only for this user",
    sqlite3.SQLITE_CANTOPEN: "its directory is missing, or this user may not write there",
    sqlite3.SQLITE_PERM: "this user may not use the file",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database: name another file, or move this one away",
    sqlite3.SQLITE_CORRUPT: "it is damaged: stop all workers, save a copy, and run  sqlite3 FILE .recover",
}


_log: Final = logging.getLogger("celeriac.sqlite")


class FileUnusable(Exception):
    """Something about the file that another attempt will not change."""


def load_queries(module: str) -> Mapping[str, str]:
    """The statements of the .sql file beside a module, by the name in the comment above each."""
    # Not by pathlib: nobody else in a supervisor needs it.
    with open(os.path.splitext(module)[0] + ".sql", encoding="utf-8") as file:
        text = file.read()
    parts = (part.partition("\n") for part in text.split("-- name: ")[1:])
    return {name.strip(): statement.strip() for name, _, statement in parts}


_QUERIES: Final = load_queries(__file__)


@contextmanager
def translated(
    file: SQLiteFile, unavailable: type[CeleriacError], refused: type[CeleriacError]
) -> Generator[None]:
    """SQLite's errors as ours: `unavailable` for what may pass, `refused` for what somebody must mend."""
    try:
        yield
    except FileUnusable as exc:
        raise refused(f"SQLite file {file.path!r}: {exc}") from exc
    except sqlite3.Error as exc:
        code = primary_code(exc)
        if code in _BUSY:
            raise unavailable(
                f"SQLite file {file.path!r} stayed locked: another process is in a long transaction"
            ) from exc
        advice = f" ({_ADVICE[code]})" if code in _ADVICE else ""
        raise refused(f"SQLite file {file.path!r}: {exc}{advice}") from exc


def primary_code(exc: sqlite3.Error) -> int:
    """SQLite's result code without its extension; 0 for an error that the Python module raised itself."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF


def sweep_records(connection: sqlite3.Connection) -> int:
    """Delete at most SWEEP_LIMIT expired results within a transaction. Returns how many."""
    return connection.execute(_QUERIES["sweep_results"], {"now": clock.now(), "limit": SWEEP_LIMIT}).rowcount


class SQLiteFile:
    """A file, shared by all brokers and result stores of the process that name it. Thread-safe."""

    #: The registry: path and mode -> the file, while somebody uses it. Guarded by `_opening`.
    _files: ClassVar[weakref.WeakValueDictionary[tuple[str, str], SQLiteFile]] = weakref.WeakValueDictionary()
    _opening: ClassVar[threading.Lock] = threading.Lock()
    #: Between the two hooks of a fork: the files whose `_using` the forking thread holds.
    _held_over_fork: ClassVar[list[SQLiteFile]] = []

    def __init__(self, path: str, synchronous: str) -> None:
        self.path = path
        self.place = f"sqlite:{path}"
        #: Notified after every commit of this process, by `wake`, and by who has listened to the bell.
        self.changed = threading.Condition()
        #: One of those who wait listens to the bell, and holds this lock; it guards the next two.
        self._listening = threading.Lock()
        self._bell: Bell | None = None
        #: `_times_opened` when it was hung.
        self._bell_opening = 0
        #: How often somebody has stopped listening. Guarded by `changed`.
        self._listened = 0
        self._synchronous = synchronous
        #: What the connection has, which `write` changes.
        self._synchronous_now = ""
        #: Held during every use of the connection, and over a fork. It guards all fields below.
        self._using = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        self._inode = 0
        self._times_opened = 0
        self._commits = 0
        self._puts_since_sweep = 0

    @classmethod
    def of(cls, url: Url, options: Mapping[str, Any]) -> SQLiteFile:
        """The file that a URL names. Does not touch the disk.

        Raises:
            ImproperlyConfigured: no file, or an option that does not exist.
        """
        if url.host or url.path in ("", "/"):
            raise ImproperlyConfigured(
                f"{url} names no file: write sqlite:///relative/file.sqlite or sqlite:////absolute/file.sqlite"
            )
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise ImproperlyConfigured(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or later is needed")
        if url.path == "/:memory:":
            raise ImproperlyConfigured(f"{url} would be a new database for each process: write memory://")
        given = {**url.query, **options}
        for name in given.keys() - {"synchronous"}:
            raise ImproperlyConfigured(f"sqlite has no option {name!r}.{nearest(name, ['synchronous'])}")
        synchronous = str(given.get("synchronous", "full")).lower()
        if synchronous not in ("full", "normal"):
            raise ImproperlyConfigured(f"synchronous={synchronous!r}: it must be 'full' or 'normal'")
        path = os.path.realpath(url.path[1:])
        with cls._opening:
            file = cls._files.get((path, synchronous))
            if file is None:
                file = cls._files[path, synchronous] = cls(path, synchronous)
            return file

    def write(self, work: Callable[[sqlite3.Connection], T], timeout: float, synced: bool = True) -> T:
        """Run `work` in one transaction, waiting at most `timeout` seconds for others' to end.

        `synced` False: a power cut may undo it. Whatever is synced later takes it along.
        """
        deadline = clock.monotonic() + timeout
        with self._connected(deadline) as connection:
            self._level(connection, self._synchronous if synced else "normal")
            _patiently(lambda: connection.execute("BEGIN IMMEDIATE"), deadline)
            before = connection.total_changes
            try:
                result = work(connection)
                connection.execute("COMMIT")
            finally:
                # A failed COMMIT, an error in `work`, or a signal handler that raised.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            has_changed = connection.total_changes != before
            self._commits += has_changed
        if has_changed:
            self.wake()
        return result

    def read(self, work: Callable[[sqlite3.Connection], T], timeout: float) -> T:
        """Run `work`, which only reads, and sees one moment: the latest commit before its first statement."""
        deadline = clock.monotonic() + timeout
        with self._connected(deadline) as connection:

            def attempt() -> T:
                connection.execute("BEGIN")
                try:
                    return work(connection)
                finally:
                    connection.execute("ROLLBACK")

            return _patiently(attempt, deadline)

    def version(self, timeout: float) -> tuple[int, ...]:
        """Differs from an earlier answer when something was committed since, by whatever process."""
        deadline = clock.monotonic() + timeout
        with self._connected(deadline) as connection:
            return _patiently(lambda: self._version(connection), deadline)

    def wait(self, seen: tuple[int, ...], seconds: float, is_woken: Callable[[], bool]) -> None:
        """Return when the version is no longer `seen`, when woken, or after so many seconds."""
        began = clock.monotonic()
        poll = SHORTEST_POLL
        while True:
            listened = self._listened
            listens = self._listening.acquire(blocking=False)
            try:
                # The bell hangs before we look: who commits after that is heard.
                bell = self._hung_bell() if listens else None
                # However short the wait, a file in use is no failure: others of this process use it in turn.
                has_changed = self.version(max(LOOK_PATIENCE, seconds)) != seen
                now = clock.monotonic()
                with self.changed:
                    if is_woken() or self._commits != seen[-1] or now >= began + seconds:
                        return
                    if has_changed:
                        # Among processes that commit all the time, nobody looks more often than this.
                        if now < began + SHORTEST_POLL:
                            self.changed.wait(began + SHORTEST_POLL - now)
                        return
                    pause = min(BELL_POLL, began + seconds - now)
                    if bell is None and self._listened == listened:
                        self.changed.wait(pause)
                    elif bell is not None and not bell.hears:
                        self.changed.wait(min(poll, pause))
                if bell is not None and bell.hears:
                    bell.wait(pause)
            finally:
                if listens:
                    self._stop_listening()
            poll = min(LONGEST_POLL, poll * 1.05)

    def _hung_bell(self) -> Bell:
        """The bell of the file that is open. It is loaded when somebody waits: it costs more than the rest of this."""
        opening, bell = self._times_opened, self._bell
        if bell is None or self._bell_opening != opening:
            bell = self._bell = own("celeriac.drivers.bell:Bell")(self.path, self._ring)
            self._bell_opening = opening
        return bell

    def _ring(self) -> None:
        """Let those hear who wait in other processes; `bell.py` says why like this."""
        # Who is not told, because the file is gone or we have too many open, asks in the end.
        with contextlib.suppress(OSError):
            os.close(os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC))

    def _stop_listening(self) -> None:
        """Let the others who wait look at what was heard, and one of them listen."""
        self._listening.release()
        with self.changed:
            self._listened += 1
            self.changed.notify_all()

    def put_records(self, connection: sqlite3.Connection, records: Sequence[Record]) -> None:
        """Store results within a transaction of this file, and now and then delete what has expired."""
        now = clock.now()
        rows = [
            {"key": one.key, "data": one.data, "expires_at": None if one.ttl is None else now + one.ttl}
            for one in records
        ]
        connection.executemany(_QUERIES["put_result"], rows)
        self._puts_since_sweep += len(rows)
        if self._puts_since_sweep >= PUTS_BETWEEN_SWEEPS:
            self._puts_since_sweep = 0
            sweep_records(connection)

    def wake(self) -> None:
        """Make everybody who waits look again, in all processes."""
        with self.changed:
            self.changed.notify_all()
        self._ring()

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        with self._using:
            self._disconnect()
        self._bell = None

    def _level(self, connection: sqlite3.Connection, synchronous: str) -> None:
        """See to it that the next commit is synced, or is not. Within a transaction that is an error."""
        if self._synchronous_now != synchronous:
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            self._synchronous_now = synchronous

    def _version(self, connection: sqlite3.Connection) -> tuple[int, ...]:
        [(data_version,)] = connection.execute("PRAGMA data_version").fetchall()
        return (self._times_opened, data_version, self._commits)

    @contextmanager
    def _connected(self, deadline: float) -> Generator[sqlite3.Connection]:
        if not self._using.acquire(timeout=max(0.0, deadline - clock.monotonic())):
            raise _busy()
        try:
            if self._connection is not None and self._inode != _inode_of(self.path):
                # What would be stored in the old one would be seen by nobody.
                self._disconnect()
                _log.error(
                    "SQLite file %r was deleted or replaced while it was in use: the messages and results in it are "
                    "gone with it, and from now on the file that is there is used, or a new one. To restore it, stop "
                    "all workers and senders first",
                    self.path,
                )
            if self._connection is None:
                self._connect(deadline)
            elif self._process != os.getpid():
                raise FileUnusable(
                    "this process was forked, not by os.fork, while the file was open, and SQLite does not "
                    "survive that: close the broker and the result store before the fork"
                )
            assert self._connection is not None
            yield self._connection
        finally:
            self._using.release()

    def _connect(self, deadline: float) -> None:
        connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            _patiently(lambda: self._prepare(connection), deadline)
        except BaseException:
            connection.close()
            raise
        self._connection, self._process, self._inode = connection, os.getpid(), _inode_of(self.path)
        self._times_opened += 1

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Check whose file this is before changing anything, then make the tables where there are none."""
        # One reading transaction: another process may be making the tables at this moment.
        connection.execute("BEGIN")
        try:
            ours = _pragma(connection, "application_id") == APPLICATION_ID
            version = _pragma(connection, "user_version")
            has_tables = bool(connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall())
        finally:
            connection.execute("ROLLBACK")
        if not ours and (version or has_tables):
            raise FileUnusable("it is another program's database: give Celeriac a file of its own")
        if version > SCHEMA_VERSION:
            raise FileUnusable(
                f"it was made by a later Celeriac (version {version} of the tables): upgrade this one"
            )
        if _pragma(connection, "journal_mode = WAL") != "wal":
            raise FileUnusable("its file system cannot do WAL (a network share?): use a local disk")
        self._synchronous_now = ""
        self._level(connection, self._synchronous)
        connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.execute("PRAGMA temp_store = MEMORY")
        if version < SCHEMA_VERSION:
            try:
                connection.executescript(_QUERIES["schema"])
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _disconnect(self) -> None:
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
            self._connection = None

    @classmethod
    def before_fork(cls) -> None:
        """Wait for the statements that run, and close: the child is to inherit no connection."""
        cls._opening.acquire()
        for file in list(cls._files.values()):
            # Where this waits in vain (a fork out of a signal handler that interrupted a transaction), the
            # child finds a connection of another process, and refuses to use it.
            if file._using.acquire(timeout=FORK_PATIENCE):
                file._disconnect()
                cls._held_over_fork.append(file)

    @classmethod
    def after_fork_in_parent(cls) -> None:
        for file in cls._held_over_fork:
            file._using.release()
        cls._held_over_fork.clear()
        cls._opening.release()

    @classmethod
    def after_fork_in_child(cls) -> None:
        """New locks: a thread that held one of the old ones is not here to release it."""
        for file in list(cls._files.values()):
            file._using = threading.Lock()
            file.changed = threading.Condition()
            file._listening = threading.Lock()
            if file._bell is not None:
                # What the child reads from it, the parent would not hear.
                file._bell.close()
                file._bell = None
        cls._held_over_fork.clear()
        cls._opening = threading.Lock()


os.register_at_fork(
    before=SQLiteFile.before_fork,
    after_in_parent=SQLiteFile.after_fork_in_parent,
    after_in_child=SQLiteFile.after_fork_in_child,
)


def _patiently(attempt: Callable[[], T], deadline: float) -> T:
    """Repeat what finds the file locked. SQLite's own waiting is coarse, and blocks a gevent hub."""
    pause = SHORTEST_RETRY
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as exc:
            if primary_code(exc) not in _BUSY or clock.monotonic() >= deadline:
                raise
        clock.sleep(pause * clock.chance())
        pause = min(LONGEST_RETRY, pause * 1.5)


def _busy() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("another thread of this process uses the file")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return error


def _pragma(connection: sqlite3.Connection, pragma: str) -> Any:
    return connection.execute(f"PRAGMA {pragma}").fetchone()[0]


def _inode_of(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return -1
