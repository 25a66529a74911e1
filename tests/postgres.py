"""A PostgreSQL server for tests: one that is there already, else a private one that ends with the session.

The server is the one that CELERIAC_TEST_POSTGRES_URL names, else the one that answers on the standard port. A private
one is made with `initdb`; PostgreSQL does not run as the superuser, who lends it to the user `nobody`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from celeriac import urls
from tests import packages
from tests.ports import free_port

URL_VARIABLE = "CELERIAC_TEST_POSTGRES_URL"
STANDARD_URL = "postgresql://postgres@127.0.0.1:5432/postgres"
#: Seconds after which something will not start any more.
PATIENCE = 15.0
MISSING = (
    "no PostgreSQL server: none answers at 127.0.0.1:5432, and no initdb is installed (Debian, Ubuntu: "
    f"apt-get install -y postgresql; macOS: brew install postgresql), or name a server in {URL_VARIABLE}"
)


def ensure() -> bool:
    """See to it that tests find a server: nothing to do, or install it. Returns whether they do."""
    if pooler_program() is None:
        packages.install("pgbouncer")
    try:
        if found() or program("initdb"):
            return True
    except psycopg.OperationalError as exc:
        print(f"{URL_VARIABLE}: {exc}", file=sys.stderr)
        return False
    packages.install("postgresql")
    if program("initdb") is None:
        print(MISSING, file=sys.stderr)
        return False
    return True


def found() -> str | None:
    """The URL of a server that is there already, or None.

    Raises:
        psycopg.OperationalError: the environment names a server that does not answer; no other is meant.
    """
    named = os.environ.get(URL_VARIABLE)
    try:
        psycopg.connect(named or STANDARD_URL, connect_timeout=3).close()
    except psycopg.OperationalError:
        if named:
            raise
        return None
    return named or STANDARD_URL


def program(name: str) -> str | None:
    """The path of one of PostgreSQL's programs, the newest where there are several."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(installed[-1]) if installed else shutil.which(name)


def with_schema(url: str, schema: str) -> str:
    """That URL, for an adapter that keeps everything in this schema."""
    return f"{url}{'&' if '?' in url else '?'}schema={schema}"


def empty(url: str, schema: str) -> None:
    """Delete what is in the tables of a schema, where there are any."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s AND tablename NOT IN ('versions', 'house')",
            [schema],
        ).fetchall()
        for (table,) in found:
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(schema, table)))


def drop(url: str, schema: str) -> None:
    """Delete a schema with all that is in it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))


def lent_folder(prefix: str) -> tuple[Path, dict[str, Any]]:
    """A new folder that the servers' user can reach, and who that is: nobody else where we are the superuser.

    Not among pytest's, which every session of pytest closes to others anew.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    lent: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
    if lent:
        shutil.chown(folder, **lent)
    return folder, lent


class PrivatePostgres:
    """A server of our own, in a folder of its own that `close` deletes."""

    def __init__(self) -> None:
        self._folder, self._as = lent_folder("celeriac-postgres-")
        self._data = self._folder / "data"
        self._run("initdb", "--auth=trust", "--username=postgres", "--no-sync", "-D", str(self._data))
        self.port = free_port()
        self._log = self._folder / "log"
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self.start()

    def close(self) -> None:
        """End it, and delete its data."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, with the data that it had. Returns when it answers."""
        if self.is_running():
            return
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "-w", "-D", str(self._data), "-o", options, "-l", str(self._log), "start")

    def stop(self) -> None:
        """Shut it down in order."""
        self._end("fast")

    def kill(self) -> None:
        """End it as a power cut would: what is not in its log is gone."""
        self._end("immediate")

    def _end(self, mode: str) -> None:
        if self.is_running():
            self._run("pg_ctl", "-w", "-m", mode, "-D", str(self._data), "stop")

    def is_running(self) -> bool:
        return (self._data / "postmaster.pid").exists()

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [program(name) or name, *arguments],
            check=True, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **self._as,
        )  # fmt: skip


class Pooler:
    """A PgBouncer in transaction mode before a server: each transaction may meet another process there."""

    def __init__(self, url: str) -> None:
        port = free_port()
        where = urls.parse(url)
        database = where.path.strip("/")
        password = f" password={where.password}" if where.password else ""
        self._folder, lent = lent_folder("celeriac-pooler-")
        settings = self._folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n{database} = host={where.host} port={where.port or 5432} user={where.username}{password}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = transaction\ndefault_pool_size = 4\n"
        )
        self._process = subprocess.Popen(
            [pooler_program() or "pgbouncer", str(settings)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **lent,
        )  # fmt: skip
        self.pid = self._process.pid
        self.url = f"postgresql://{where.username}@127.0.0.1:{port}/{database}"
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("pgbouncer did not start")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=3).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """End it, and delete its settings."""
        self._process.kill()
        self._process.wait(PATIENCE)
        shutil.rmtree(self._folder, ignore_errors=True)


def pooler_program() -> str | None:
    """The path of PgBouncer's program, which Debian keeps where only the superuser looks."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
