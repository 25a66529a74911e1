"""RabbitMQ servers of a test's own: started in some seconds, killed, and started again on the data they had."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from celeriac.drivers.amqp_address import PREFIX
from tests import rabbitmq
from tests.ports import free_port

#: Seconds after which something will not happen any more; an Erlang machine takes its time.
PATIENCE = 90.0
#: Messages in each queue of a virtual host, twice, those included that somebody is working on; -1, where a queue
#: that has just begun cannot be counted yet.
_COUNT = """
    Count = fun() -> [{{binary_to_list(element(4, amqqueue:get_name(Q))), case amqqueue:get_type(Q) of
        rabbit_quorum_queue ->
            case catch ra:local_query(amqqueue:get_pid(Q), fun rabbit_fifo:query_messages_total/1) of
                {{ok, {{_, N}}, _}} -> N; _ -> -1 end;
        _ ->
            case catch rabbit_amqqueue:info(Q, [messages]) of [{{messages, N}}] -> N; _ -> 0 end end}}
    || Q <- rabbit_amqqueue:list(<<"{}">>)] end, {{Count(), Count()}}.
"""
_SEIZED = """
    [binary_to_list(element(4, proplists:get_value(queue_name, C))) || C <- rabbit_amqqueue:consumers_all(<<"{}">>)].
"""
#: What was on its way through the chain of delays as the server ended is sent on after so many milliseconds; by default
#: after three minutes: docs/rabbitmq.md.
_ADVANCED = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 3000}]}].\n"
_POWER_CUT = "lists:foreach(fun dets:sync/1, dets:all()), erlang:halt(137, [{flush, false}])."
#: How it comes to be short of something, and how that ends.
_ALARMS = {
    "memory": (
        "vm_memory_monitor:set_vm_memory_high_watermark(0.0001).",
        "vm_memory_monitor:set_vm_memory_high_watermark(0.4).",
    ),
    "disk": (
        'rabbit_disk_monitor:set_disk_free_limit("1000000GB").',
        'rabbit_disk_monitor:set_disk_free_limit("1MB").',
    ),
}
_CLIENTS = """
    [{P, N} || [{peer_port, P}, {recv_cnt, N}] <- rabbit_networking:connection_info_all([peer_port, recv_cnt])].
"""
_COUNTED = re.compile(r'\{"([^"]*)",\s*(-?\d+)\}')
_NAME = re.compile(r'"([^"]*)"')
_CLIENT = re.compile(r"\{(\d+),\s*(\d+)\}")
#: What follows the name of a queue in that of one of its parts.
_PART = re.compile(r"~(first|crate|[1-9])$")
#: What RabbitMQ's queues of other things than work end with.
KEPT = ("~dead", "~queues", "~leases", "~bans", "~revoked", "~arrived")


class Work(NamedTuple):
    """What is to be done at a virtual host: messages that wait, by queue; that are delayed; that somebody holds.

    For each queue that cannot be counted, somebody holds one.
    """

    ready: dict[str, int]
    delayed: int
    held: int

    @property
    def is_done(self) -> bool:
        return not (any(self.ready.values()) or self.delayed or self.held)


class PrivateRabbit:
    """A node of its own, which writes below its folder only. `guest` may use it, without a password worth the name."""

    def __init__(self, folder: Path, *settings: str, cookie: str | None = None) -> None:
        """`settings`: more lines of its configuration file. With a `cookie` that others have as well, it is started
        later, as one of them."""
        self.folder = folder
        self.port, self._distribution = free_port(), free_port()
        self.node = f"celeriac-{self.port}@localhost"
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self._cookie = cookie or secrets.token_hex(10)
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "plugins").write_text("[].\n")
        (folder / "empty").touch()
        lines = ["loopback_users = none", "disk_free_limit.absolute = 1MB", *settings, ""]
        (folder / "settings.conf").write_text("\n".join(lines))
        (folder / "advanced.config").write_text(_ADVANCED)
        if cookie is None:
            self.start()

    def join(self, nodes: Sequence[str], settings: str = "") -> None:
        """At its first start it is to be one of these, the names of nodes."""
        with (self.folder / "settings.conf").open("a") as file:
            file.write("cluster_formation.peer_discovery_backend = classic_config\n")
            for number, node in enumerate(nodes, 1):
                file.write(f"cluster_formation.classic_config.nodes.{number} = {node}\n")
            file.write(settings)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the private RabbitMQ server is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start it, with the data that it had. Returns when it answers."""
        if self._process is not None:
            return
        program = rabbitmq.program()
        if program is None:
            raise FileNotFoundError(rabbitmq.MISSING)
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                # Not by Debian's wrapper, which changes to a user who may not come here.
                [shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin") or program],
                env={**os.environ, **self._environment()}, cwd=self.folder, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not rabbitmq.answers(self.url):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                tail = (self.folder / "output").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"rabbitmq-server did not start on port {self.port}:\n{tail}")
            time.sleep(0.05)

    def _environment(self) -> dict[str, str]:
        local = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "HOME": str(self.folder),
            "ERL_CRASH_DUMP_BYTES": "0",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "settings.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "empty"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-setcookie {self._cookie} {local}",
            # Its script becomes the server then, instead of waiting beside it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def stop(self) -> None:
        """Shut it down in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would, at an instant at which the names of all quorum queues are on the disk.

        It writes them when no queue has been made or deleted for half a second. What is killed before that has lost
        these queues: docs/guarantees.md#rabbitmq.
        """
        self._end(None)

    def close(self) -> None:
        """End it. Its folder is the caller's."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals | None) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        deadline = time.monotonic() + PATIENCE
        while number is None and process.poll() is None and time.monotonic() < deadline:
            # Breaks off, as it ends before it answers.
            with contextlib.suppress(RuntimeError):
                self.evaluate(_POWER_CUT, 0.0)
        process.send_signal(number or signal.SIGKILL)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE)
        # What helps it with names and programs ends when it sees that; nothing waits for it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It is there and does not answer, as over a network that swallows packets."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def evaluate(self, expressions: str, patience: float = PATIENCE) -> str:
        """What these Erlang expressions, which end with a full stop, are there."""
        command = ["erl_call", "-r", "-address", f"127.0.0.1:{self._distribution}", "-c", self._cookie, "-e"]
        deadline = time.monotonic() + patience
        while True:
            done = subprocess.run(
                command, input=f"{expressions.strip()}\n", capture_output=True, text=True, timeout=PATIENCE,
                check=False,
            )  # fmt: skip
            if done.stdout.startswith("{ok,"):
                return done.stdout[4:].strip().removesuffix("}").strip()
            # One that has much to do lets nobody in for a moment.
            if done.stdout or time.monotonic() > deadline:
                raise RuntimeError(f"{self.node} refused {expressions.strip()}: {done.stdout}{done.stderr}")
            time.sleep(0.1)

    def work(self, host: str = "/") -> Work:
        """What is to be done by workers, with what they are being given just now. Nothing is missed that moves from one
        queue to another meanwhile, unless it does so twice."""
        counts: dict[str, int] = {}
        unknown: set[str] = set()
        for name, told in _COUNTED.findall(self.evaluate(_COUNT.format(host))):
            counts[name] = max(counts.get(name, 0), int(told))
            if int(told) < 0:
                unknown.add(name)
        work = Work({}, 0, len(unknown))
        for name, count in counts.items():
            if name.startswith("celeriac~delay~"):
                work = work._replace(delayed=work.delayed + count)
            elif name.startswith(f"{PREFIX}~held~"):
                work = work._replace(held=work.held + count)
            elif not name.endswith(KEPT):
                queue = _PART.sub("", name.removeprefix(PREFIX))
                # The label of a crate stays when all has been moved.
                label = int(count > 0 and name.endswith("~crate"))
                work.ready[queue] = work.ready.get(queue, 0) + count - label
        return work

    def is_seized(self, host: str = "/") -> bool:
        """Whether somebody has all that is in a queue that is had by one at a time, and nothing else to do with it."""
        told = self.evaluate(_SEIZED.format(host))
        return any(name.endswith(KEPT) for name in _NAME.findall(told))

    def clients(self) -> dict[int, int]:
        """The port of everybody who is connected, and how many packets have come from there."""
        return {int(port): int(count) for port, count in _CLIENT.findall(self.evaluate(_CLIENTS))}

    def hang_up(self) -> None:
        """Close all connections of clients, as an operator may."""
        self.evaluate(
            '[rabbit_networking:close_connection(Pid, "hung up") || Pid <- rabbit_networking:connections()].'
        )

    @contextlib.contextmanager
    def short_of(self, what: str) -> Iterator[None]:
        """It thinks that it has too little `memory` or `disk`, and blocks who publishes."""
        begin, end = _ALARMS[what]
        self.evaluate(begin)
        try:
            yield
        finally:
            self.evaluate(end)

    @contextlib.contextmanager
    def virtual_host(self) -> Iterator[str]:
        """The URL of a new one, which goes away with all that is in it."""
        name = f"test-{secrets.token_hex(4)}"
        everything = ", ".join(['<<".*">>'] * 3)
        self.evaluate(
            f'rabbit_vhost:add(<<"{name}">>, <<"tests">>),'
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, {everything}, <<"tests">>).'
        )
        try:
            yield self.url.removesuffix("/") + name
        finally:
            self.evaluate(f'rabbit_vhost:delete(<<"{name}">>, <<"tests">>).')
