"""A PostgreSQL server for tests: one that is there already, else a private one that ends with the session.

The server is the one that CELERIAC_TEST_POSTGRES_URL names, else the one that answers on the standard port. A private
one is made with `initdb`; PostgreSQL does not run as the superuser, who lends it to the user `nobody`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import psycopg

URL_VARIABLE = "CELERIAC_TEST_POSTGRES_URL"
STANDARD_URL = "postgresql://postgres@127.0.0.1:5432/postgres"
MISSING = (
    "no PostgreSQL server: none answers at 127.0.0.1:5432, and no initdb is installed (Debian, Ubuntu: "
    f"apt-get install -y postgresql; macOS: brew install postgresql), or name a server in {URL_VARIABLE}"
)


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


class PrivatePostgres:
    """A server of our own, in a folder that is made for it."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._as = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        if self._as:
            # The folders above belong to the superuser alone.
            for above in (folder, *folder.parents[:3]):
                above.chmod(above.stat().st_mode | 0o011)
            shutil.chown(folder, **self._as)
        self._run("initdb", "--auth=trust", "--username=postgres", "--no-sync", "-D", str(self._data))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "-w", "-D", str(self._data), "-o", options, "-l", str(folder / "log"), "start")
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "-D", str(self._data), "stop")

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [program(name) or name, *arguments],
            check=True, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **self._as,
        )  # fmt: skip
