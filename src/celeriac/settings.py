"""Every setting that Celeriac honours: one row each, with its type, default and meaning.

The rows are the only place where a setting is described: the checks, the command line flags, the environment
variables, Celery's old names and the reference page come from them. `configuration` holds an application's
values; `settings_without_effect` lists the settings of Celery's that have nothing to act on here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from celeriac import setting_kinds as kinds
from celeriac.exceptions import ImproperlyConfigured
from celeriac.setting_kinds import (
    ANYTHING,
    BOOLEAN,
    DELIVERY_MODE,
    LEVEL,
    MAPPING,
    NAMES,
    PASSWORD,
    PATH,
    RATE,
    SSL,
    STRATEGY,
    TEXT,
    TIMEZONE,
    URL,
    integer,
    is_mapping,
    number,
    one_of,
    seconds,
)
from celeriac.urls import MASK, mask_url


class Setting(msgspec.Struct, frozen=True):
    """One setting: what it is called, what it may be, what it is when nobody sets it, and what it does."""

    name: str
    kind: kinds.Kind
    default: Any
    help: str
    old: str | None = None
    flag: str | None = None
    secret: bool = False
    optional: bool = False

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"CELERIAC_{self.name.upper()}"

    @property
    def choices(self) -> tuple[str, ...]:
        """The words it may be, where these are few; else nothing."""
        return self.kind.choices

    @property
    def accepts_none(self) -> bool:
        """Whether None is a value of it."""
        return self.optional or self.default is None

    def check(self, value: Any, source: str) -> Any:
        """The value as the package uses it.

        Raises:
            ImproperlyConfigured: it is of the wrong type or out of range.
        """
        if value is None and self.accepts_none:
            return None
        try:
            return self.kind.accept(value)
        except kinds.NotOfKind as exc:
            raise self._refused(value, source, str(exc)) from None

    def read(self, text: str, source: str) -> Any:
        """The value that a text from the environment or the command line stands for.

        Raises:
            ImproperlyConfigured: it stands for none.
        """
        if self.accepts_none and text.lower() in ("", "none", "null"):
            return None
        try:
            return self.kind.read(text)
        except kinds.NotOfKind as exc:
            raise self._refused(text, source, str(exc)) from None

    def show(self, value: Any) -> str:
        """The value for a person to read, without passwords."""
        if self.secret and value is not None:
            return repr(MASK)
        return repr(mask(value))

    def _refused(self, value: Any, source: str, hint: str) -> ImproperlyConfigured:
        expects = self.kind.expects + (" or None" if self.accepts_none else "")
        return ImproperlyConfigured(
            f"{self.name!r} must be {expects}, not {self.show(value)} (given by: {source}).{hint}"
        )


_SECRET_PARTS = ("pass", "secret", "token", "credential", "private_key", "api_key", "access_key")


def mask(value: Any) -> Any:
    """The value with the passwords of its URLs, and what stands under a secret's name, replaced by `********`."""
    if isinstance(value, str):
        return mask_url(value)
    if is_mapping(value):
        return {key: MASK if item and names_secret(str(key)) else mask(item) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(mask(item) for item in value)
    return value


def names_secret(name: str) -> bool:
    """Whether what goes by this name must not be shown."""
    return any(part in name.lower() for part in _SECRET_PARTS)


_LOG_FORMAT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
_TASK_LOG_FORMAT = "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
_PUBLISH_RETRY = {"max_retries": 3, "interval_start": 0, "interval_max": 1, "interval_step": 0.2}

_BROKER = (
    Setting("broker_url", URL, "sqlite:///celeriac.sqlite",
            "Where messages are kept; of several URLs the first one that answers is used.", "BROKER_URL", "--broker"),
    Setting("broker_read_url", URL, None,
            "Where workers take messages, if not at `broker_url`. What follows a run (a retry, the next step) "
            "stays there.", "BROKER_READ_URL"),
    Setting("broker_write_url", URL, None,
            "Where messages are sent, if not to `broker_url`; workers do not look there.", "BROKER_WRITE_URL"),
    Setting("broker_transport_options", MAPPING, {},
            "Options of the broker's own, such as `global_keyprefix`; and `queue_order_strategy`: in which order a "
            "worker looks into its queues, `round_robin`, `sorted` or `priority`.", "BROKER_TRANSPORT_OPTIONS"),
    Setting("broker_use_ssl", SSL, False, "TLS for the broker's connections.", "BROKER_USE_SSL",
            optional=True),
    Setting("broker_failover_strategy", STRATEGY, "round-robin",
            "In which order a sender tries the others of several broker URLs, where the first does not answer.",
            "BROKER_FAILOVER_STRATEGY", optional=True),
    Setting("broker_failover_after", seconds(), 5.0,
            "Seconds that a broker must have been away before a worker goes to another of several, and must have been "
            "back before it returns."),
    Setting("broker_heartbeat", seconds(), 120.0,
            "Seconds between signs of life on an AMQP connection; 0 turns them off.", "BROKER_HEARTBEAT",
            optional=True),
    Setting("broker_publish_timeout", seconds(0.01), 2.0,
            "Seconds within which a send succeeds or raises, retries included."),
    Setting("broker_connection_timeout", seconds(0.01), 4.0, "Seconds a worker gives one attempt to connect.",
            "BROKER_CONNECTION_TIMEOUT"),
    Setting("broker_connection_retry", BOOLEAN, True, "Whether a worker reconnects after a lost connection.",
            "BROKER_CONNECTION_RETRY"),
    Setting("broker_connection_retry_on_startup", BOOLEAN, True,
            "Whether a worker that starts waits for its broker.", "BROKER_CONNECTION_RETRY_ON_STARTUP",
            optional=True),
    Setting("broker_connection_max_retries", integer(), None,
            "How often a worker tries to reconnect; None is for ever.", "BROKER_CONNECTION_MAX_RETRIES"),
    Setting("broker_connection_lost_timeout", seconds(), 300.0,
            "Seconds without its broker, or in which it lets no child take, after which a worker exits with an error; "
            "None is never.",
            optional=True),
    Setting("broker_pool_limit", integer(), 10,
            "The most connections that one process opens to send; None or 0 is no limit.",
            "BROKER_POOL_LIMIT", optional=True),
)  # fmt: skip

_TASK = (
    Setting("accept_content", NAMES, ("msgpack", "json", "yaml"),
            "The serializers that messages may come in.", "CELERY_ACCEPT_CONTENT"),
    Setting("task_serializer", TEXT, "msgpack", "The serializer of sent messages.", "CELERY_TASK_SERIALIZER"),
    Setting("task_compression", TEXT, None, "The compression of sent messages (`zlib`, `bzip2`, `lzma`).",
            "CELERY_MESSAGE_COMPRESSION"),
    Setting("task_compression_min_size", integer(), 1024, "Bytes from which a message is compressed."),
    Setting("task_message_max_size", integer(1), 16 * 1024 * 1024,
            "The most bytes of one message; None is no limit.", optional=True),
    Setting("task_default_queue", TEXT, "celery", "The queue of tasks that no route names.",
            "CELERY_DEFAULT_QUEUE"),
    Setting("task_default_exchange", TEXT, None,
            "The exchange of queues that name none, and of calls that give a routing key and no queue; None is "
            "`task_default_queue`.", "CELERY_DEFAULT_EXCHANGE"),
    Setting("task_default_exchange_type", one_of("direct", "topic", "fanout"), "direct",
            "How that exchange picks queues: by the same key, by a pattern of words, or all.",
            "CELERY_DEFAULT_EXCHANGE_TYPE"),
    Setting("task_default_routing_key", TEXT, None,
            "The routing key of queues that have none, and of calls that give an exchange only; None is "
            "`task_default_queue`.", "CELERY_DEFAULT_ROUTING_KEY"),
    Setting("task_default_delivery_mode", DELIVERY_MODE, 2,
            "Of messages of which nobody says more: `persistent` (2), or `transient` (1) for those that need not "
            "survive the end of their broker.", "CELERY_DEFAULT_DELIVERY_MODE"),
    Setting("task_queues", ANYTHING, None,
            "The queues that a worker without `-Q` takes from: names, or `Queue`s that are bound to exchanges.",
            "CELERY_QUEUES"),
    Setting("task_routes", ANYTHING, None, "Which task goes to which queue.", "CELERY_ROUTES"),
    Setting("task_create_missing_queues", BOOLEAN, True,
            "Whether a queue may be used that `task_queues` does not name.", "CELERY_CREATE_MISSING_QUEUES"),
    Setting("task_default_priority", integer(), None,
            "The priority of tasks that have none; a higher number runs first.", "CELERY_DEFAULT_PRIORITY"),
    Setting("task_queue_max_priority", integer(), None, "The highest priority of queues that do not say.",
            "CELERY_QUEUE_MAX_PRIORITY"),
    Setting("task_inherit_parent_priority", BOOLEAN, False, "Whether a task sent by a task has its priority.",
            "CELERY_INHERIT_PARENT_PRIORITY"),
    Setting("task_default_rate_limit", RATE, None, "The rate limit of tasks that have none.",
            "CELERY_DEFAULT_RATE_LIMIT"),
    Setting("task_annotations", ANYTHING, None, "Attributes to set on tasks, by name.", "CELERY_ANNOTATIONS"),
    Setting("task_always_eager", BOOLEAN, False, "Whether `delay` runs the task at once, in the caller.",
            "CELERY_ALWAYS_EAGER"),
    Setting("task_eager_propagates", BOOLEAN, False, "Whether an eager task's error is raised in the caller.",
            "CELERY_EAGER_PROPAGATES_EXCEPTIONS"),
    Setting("task_store_eager_result", BOOLEAN, False, "Whether an eager task's result is stored.",
            "CELERY_STORE_EAGER_RESULT"),
    Setting("task_ignore_result", BOOLEAN, True,
            "Whether return values are dropped, unless a task says otherwise.", "CELERY_IGNORE_RESULT"),
    Setting("task_store_errors_even_if_ignored", BOOLEAN, True,
            "Whether the errors of tasks without results are kept.", "CELERY_STORE_ERRORS_EVEN_IF_IGNORED"),
    Setting("task_track_started", BOOLEAN, False, "Whether the state STARTED is stored.",
            "CELERY_TRACK_STARTED"),
    Setting("task_acks_late", BOOLEAN, True,
            "Whether a message is settled after the run (at least once), not before it (at most once).",
            "CELERY_ACKS_LATE"),
    Setting("task_acks_on_failure_or_timeout", BOOLEAN, True,
            "Whether a run that failed or timed out is settled.", "CELERY_ACKS_ON_FAILURE_OR_TIMEOUT"),
    Setting("task_acks_on_failure", BOOLEAN, None,
            "Whether a run that failed is settled; None follows `task_acks_on_failure_or_timeout`."),
    Setting("task_acks_on_timeout", BOOLEAN, None,
            "Whether a run that timed out is settled; None follows `task_acks_on_failure_or_timeout`."),
    Setting("task_reject_on_worker_lost", BOOLEAN, None,
            "Whether a task runs again whose process died; None is yes, up to `task_max_deliveries`.",
            "CELERY_REJECT_ON_WORKER_LOST"),
    Setting("task_max_deliveries", integer(1), 3,
            "Deliveries that ended with a dead process, after which a message goes to the dead letters."),
    Setting("task_dead_letter_max", integer(1), 100_000,
            "How many dead letters a queue keeps: the oldest of more are deleted, and counted. None is no limit. In "
            "Redis each takes its message and about 0.4 KB: with large messages, set a lower number.",
            optional=True),
    Setting("task_dead_letter_expires", seconds(), 30 * 86400.0,
            "Seconds that a dead letter is kept; then it is deleted, and counted. None is for ever.", optional=True),
    Setting("task_unknown_grace", seconds(), 900.0,
            "Seconds that a task which no worker knows waits for one that does."),
    Setting("task_publish_retry", BOOLEAN, True, "Whether a failed send is tried again.",
            "CELERY_TASK_PUBLISH_RETRY"),
    Setting("task_publish_retry_policy", MAPPING, _PUBLISH_RETRY,
            "How a send is tried again; times in seconds.", "CELERY_TASK_PUBLISH_RETRY_POLICY"),
    Setting("task_time_limit", seconds(0.01), None, "Seconds after which a run is ended.",
            "CELERYD_TASK_TIME_LIMIT", "--time-limit"),
    Setting("task_soft_time_limit", seconds(0.01), None,
            "Seconds after which `SoftTimeLimitExceeded` is raised in a run.", "CELERYD_TASK_SOFT_TIME_LIMIT",
            "--soft-time-limit"),
    Setting("task_send_sent_event", BOOLEAN, False, "Whether a send emits an event.",
            "CELERY_SEND_TASK_SENT_EVENT"),
    Setting("task_repr_maxlevels", integer(1), 3,
            "How deep nested arguments are printed in events and logs."),
    Setting("task_allow_error_cb_on_chord_header", BOOLEAN, False,
            "Whether a chord's error callback is also called for its header.",
            "CELERY_ALLOW_ERROR_CB_ON_CHORD_HEADER"),
)  # fmt: skip

_RESULT = (
    Setting("result_backend", URL, None,
            "Where results are kept; None is at the broker, `disabled://` nowhere.", "CELERY_RESULT_BACKEND",
            "--result-backend"),
    Setting("result_backend_transport_options", MAPPING, {},
            "Options of the result store's own, such as `global_keyprefix`.",
            "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS"),
    Setting("result_accept_content", NAMES, None,
            "The serializers that results may come in; None follows `accept_content`.",
            "RESULT_ACCEPT_CONTENT"),
    Setting("result_serializer", TEXT, "msgpack", "The serializer of results.", "CELERY_RESULT_SERIALIZER"),
    Setting("result_compression", TEXT, None, "The compression of results.", "CELERY_RESULT_COMPRESSION"),
    Setting("result_expires", seconds(), 43200.0, "Seconds that results are kept; None or 0 is for ever.",
            "CELERY_TASK_RESULT_EXPIRES", optional=True),
    Setting("result_failure_expires", seconds(), None,
            "Seconds that errors are kept; None follows `result_expires`."),
    Setting("result_chord_expires", seconds(), None,
            "Seconds that an unfinished chord is remembered; None follows `result_expires`."),
    Setting("result_extended", BOOLEAN, False,
            "Whether a result holds the task's name, arguments, queue and worker.", "CELERY_RESULT_EXTENDED"),
    Setting("result_backend_always_retry", BOOLEAN, False,
            "Whether an unreachable result store is tried until it answers.",
            "CELERY_RESULT_BACKEND_ALWAYS_RETRY"),
    Setting("result_backend_max_retries", number(), float("inf"),
            "How often an unreachable result store is tried again.", "CELERY_RESULT_BACKEND_MAX_RETRIES"),
    Setting("redis_backend_use_ssl", SSL, None, "TLS for a Redis result store.",
            "CELERY_REDIS_BACKEND_USE_SSL"),
    Setting("redis_max_connections", integer(1), None,
            "The most connections of one process to a Redis result store; None follows `broker_pool_limit`.",
            "CELERY_REDIS_MAX_CONNECTIONS"),
    Setting("redis_socket_timeout", seconds(0.01), 5.0, "Seconds for one command to a Redis result store.",
            "CELERY_REDIS_SOCKET_TIMEOUT", optional=True),
    Setting("redis_socket_connect_timeout", seconds(0.01), None,
            "Seconds to connect to a Redis result store; None follows `redis_socket_timeout`.",
            "CELERY_REDIS_SOCKET_CONNECT_TIMEOUT"),
    Setting("redis_socket_keepalive", BOOLEAN, True,
            "Whether idle connections to a Redis result store are probed.", "CELERY_REDIS_SOCKET_KEEPALIVE"),
    Setting("redis_client_name", TEXT, None, "The name that `CLIENT LIST` shows for a Redis result store."),
)  # fmt: skip

_WORKER = (
    Setting("worker_pool", TEXT, "prefork", "The pool: `prefork`, `threads`, `gevent`, `asyncio` or `solo`.",
            "CELERYD_POOL", "--pool"),
    Setting("worker_concurrency", integer(1), None,
            "How many tasks run at once in a pool; None is one for each CPU.", "CELERYD_CONCURRENCY",
            "--concurrency"),
    Setting("worker_processes", integer(1), None,
            "How many processes of the pool a worker keeps; None is what the pool says.", flag="--processes"),
    Setting("worker_prefetch_multiplier", integer(0, "auto"), "auto",
            "Messages taken ahead for each slot; 0 is no limit, `auto` adapts to measured run times.",
            "CELERYD_PREFETCH_MULTIPLIER", "--prefetch-multiplier"),
    Setting("worker_lease", seconds(1.0), 30.0,
            "Seconds without a sign of life after which a worker's tasks are given to others.",
            flag="--lease"),
    Setting("worker_shutdown_timeout", seconds(), 25.0,
            "Seconds that running tasks have to finish when a worker stops.", flag="--shutdown-timeout"),
    Setting("worker_revoke_grace", seconds(), 5.0,
            "Seconds that a run has to clean up when its task is revoked with `terminate`, before it is killed."),
    Setting("worker_revoke_expires", seconds(1.0), 10800.0,
            "Seconds for which it is remembered that a task is revoked which waits in no queue: one that runs, or "
            "is sent later."),
    Setting("worker_max_tasks_per_child", integer(1), None, "Runs after which a child is replaced.",
            "CELERYD_MAX_TASKS_PER_CHILD", "--max-tasks-per-child"),
    Setting("worker_max_memory_per_child", integer(1), None,
            "KiB of resident memory above which a child is replaced.", "CELERYD_MAX_MEMORY_PER_CHILD",
            "--max-memory-per-child"),
    Setting("worker_max_age_per_child", seconds(1.0), None,
            "Seconds of life after which a child is replaced.", flag="--max-age-per-child"),
    Setting("worker_max_age_variance", seconds(), 0.0,
            "The most seconds, drawn at random, that are added to a child's `worker_max_age_per_child`.",
            flag="--max-age-variance"),
    Setting("worker_autoscale_keepalive", seconds(), 30.0,
            "Seconds after which a process that was not needed in all of them is ended (`--autoscale`)."),
    Setting("worker_template_keepalive", seconds(), 30.0,
            "Seconds without need after which the process that forks children ends, where there is one child (for "
            "each second that importing the application took, if that were several); None: it stays."),
    Setting("worker_kill_above_memory", integer(1), None,
            "KiB of resident memory above which a child is killed at once.", flag="--kill-above-memory"),
    Setting("worker_proc_alive_timeout", seconds(0.01), 60.0,
            "Seconds that a child has to start; on the command line or in the environment also those that the "
            "import of the application may take.", "CELERYD_PROC_ALIVE_TIMEOUT"),
    Setting("worker_imports", one_of("lazy", "eager"), "lazy",
            "Whether a worker imports only the modules its queues need, or all."),
    Setting("imports", NAMES, (), "Modules that a worker imports when it starts.", "CELERY_IMPORTS"),
    Setting("include", NAMES, (), "More modules that a worker imports.", "CELERY_INCLUDE", "--include"),
    Setting("worker_direct", BOOLEAN, False, "Whether a worker also takes from a queue of its own name.",
            "CELERY_WORKER_DIRECT"),
    Setting("worker_send_task_events", BOOLEAN, False,
            "Whether a worker publishes what happens to its tasks.", "CELERY_SEND_EVENTS", "--task-events"),
    Setting("worker_enable_remote_control", BOOLEAN, True,
            "Whether a worker hears of revocations while it holds or runs tasks, and answers `celeriac status`.",
            "CELERY_ENABLE_REMOTE_CONTROL"),
    Setting("worker_disable_rate_limits", BOOLEAN, False, "Whether rate limits are ignored.",
            "CELERY_DISABLE_RATE_LIMITS"),
    Setting("worker_hijack_root_logger", BOOLEAN, True,
            "Whether a worker replaces the root logger's handlers.", "CELERYD_HIJACK_ROOT_LOGGER"),
    Setting("worker_log_color", BOOLEAN, None, "Whether log lines are coloured; None is on a terminal.",
            "CELERYD_LOG_COLOR"),
    Setting("worker_log_format", TEXT, _LOG_FORMAT, "The format of a worker's log lines.",
            "CELERYD_LOG_FORMAT"),
    Setting("worker_log_datefmt", TEXT, None, "The format of the time in a worker's log lines."),
    Setting("worker_task_log_format", TEXT, _TASK_LOG_FORMAT, "The format of log lines written by tasks.",
            "CELERYD_TASK_LOG_FORMAT"),
    Setting("worker_task_log_datefmt", TEXT, None, "The format of the time in log lines written by tasks."),
    Setting("worker_redirect_stdouts", BOOLEAN, True, "Whether what tasks print goes to the log.",
            "CELERY_REDIRECT_STDOUTS"),
    Setting("worker_redirect_stdouts_level", LEVEL, "WARNING", "The log level of what tasks print.",
            "CELERY_REDIRECT_STDOUTS_LEVEL"),
)  # fmt: skip

_OTHERS = (
    Setting("enable_utc", BOOLEAN, True, "Whether times in messages are in UTC.", "ENABLE_UTC"),
    Setting("timezone", TIMEZONE, None, "The time zone of schedules and of naive times; None is UTC.",
            "CELERY_TIMEZONE", "--timezone"),
    Setting("beat_schedule", MAPPING, {}, "What `celeriac beat` sends, and when.", "CELERYBEAT_SCHEDULE"),
    Setting("beat_scheduler", TEXT, None, "The scheduler class, as `module:Class`; None is the built-in one.",
            "CELERYBEAT_SCHEDULER", "--scheduler"),
    Setting("beat_schedule_filename", PATH, None,
            "The file in which last runs are kept; None is at the broker.", "CELERYBEAT_SCHEDULE_FILENAME",
            "--schedule"),
    Setting("beat_max_loop_interval", seconds(), 0.0,
            "The most seconds that beat sleeps; 0 is what the scheduler says.",
            "CELERYBEAT_MAX_LOOP_INTERVAL", "--max-interval"),
    Setting("beat_cron_starting_deadline", seconds(), None, "Seconds after which a missed run is skipped.",
            "CELERYBEAT_CRON_STARTING_DEADLINE"),
    Setting("security_key", PATH, None, "The file of the private key that signs messages.",
            "CELERY_SECURITY_KEY"),
    Setting("security_key_password", PASSWORD, None, "The password of the private key.",
            "CELERY_SECURITY_KEY_PASSWORD", secret=True),
    Setting("security_certificate", PATH, None, "The file of the certificate that signed messages bear.",
            "CELERY_SECURITY_CERTIFICATE"),
    Setting("security_cert_store", TEXT, None, "The files, as a pattern, of the certificates to trust.",
            "CELERY_SECURITY_CERT_STORE"),
    Setting("security_digest", TEXT, "sha256", "The digest of signatures.", "CELERY_SECURITY_DIGEST"),
)  # fmt: skip

SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {row.name: row for rows in (_BROKER, _TASK, _RESULT, _WORKER, _OTHERS) for row in rows}
)

OLD_NAMES: Mapping[str, str] = MappingProxyType({row.old: row.name for row in SETTINGS.values() if row.old})
