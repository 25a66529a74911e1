"""The settings of Celery's that have nothing to act on here, and why.

They are accepted, so that a settings module of Celery's can be used as it is, with one warning each that
gives the reason. Those that say where a server is are refused while no URL says it: they would be missed.
Each row reads `name=OLD_NAME`, or `name` alone where Celery has no old name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec


class WithoutEffect(msgspec.Struct, frozen=True):
    """A setting of Celery's that does nothing here; without `missed_without` it is an error."""

    name: str
    why: str
    old: str | None = None
    missed_without: str | None = None


_ACCEPTED: Mapping[str, str] = MappingProxyType({
    "this result store does not exist here; `result_backend` names those that do": """
        arangodb_backend_settings=CELERY_ARANGODB_BACKEND_SETTINGS
        azureblockblob_base_path=AZUREBLOCKBLOB_BASE_PATH
        azureblockblob_connection_timeout=AZUREBLOCKBLOB_CONNECTION_TIMEOUT
        azureblockblob_container_name=AZUREBLOCKBLOB_CONTAINER_NAME
        azureblockblob_read_timeout=AZUREBLOCKBLOB_READ_TIMEOUT
        azureblockblob_retry_increment_base=AZUREBLOCKBLOB_RETRY_INCREMENT_BASE
        azureblockblob_retry_initial_backoff_sec=AZUREBLOCKBLOB_RETRY_INITIAL_BACKOFF_SEC
        azureblockblob_retry_max_attempts=AZUREBLOCKBLOB_RETRY_MAX_ATTEMPTS cache_backend=CELERY_CACHE_BACKEND
        cache_backend_options=CELERY_CACHE_BACKEND_OPTIONS cassandra_auth_kwargs=CASSANDRA_AUTH_KWARGS
        cassandra_auth_provider=CASSANDRA_AUTH_PROVIDER cassandra_bundle_path=CASSANDRA_BUNDLE_PATH
        cassandra_entry_ttl=CASSANDRA_ENTRY_TTL cassandra_keyspace=CASSANDRA_KEYSPACE
        cassandra_options=CASSANDRA_OPTIONS cassandra_port=CASSANDRA_PORT
        cassandra_read_consistency=CASSANDRA_READ_CONSISTENCY cassandra_servers=CASSANDRA_SERVERS
        cassandra_table=CASSANDRA_TABLE cassandra_write_consistency=CASSANDRA_WRITE_CONSISTENCY
        cosmosdbsql_collection_name=COSMOSDBSQL_COLLECTION_NAME
        cosmosdbsql_consistency_level=COSMOSDBSQL_CONSISTENCY_LEVEL
        cosmosdbsql_database_name=COSMOSDBSQL_DATABASE_NAME
        cosmosdbsql_max_retry_attempts=COSMOSDBSQL_MAX_RETRY_ATTEMPTS
        cosmosdbsql_max_retry_wait_time=COSMOSDBSQL_MAX_RETRY_WAIT_TIME
        couchbase_backend_settings=CELERY_COUCHBASE_BACKEND_SETTINGS
        database_create_tables_at_setup=DATABASE_CREATE_TABLES_AT_SETUP
        database_engine_options=CELERY_RESULT_ENGINE_OPTIONS
        database_short_lived_sessions=CELERY_RESULT_DB_SHORT_LIVED_SESSIONS
        database_table_names=CELERY_RESULT_DB_TABLENAMES database_table_schemas=DATABASE_TABLE_SCHEMAS
        database_url=CELERY_RESULT_DBURI elasticsearch_max_retries=CELERY_ELASTICSEARCH_MAX_RETRIES
        elasticsearch_retry_on_timeout=CELERY_ELASTICSEARCH_RETRY_ON_TIMEOUT
        elasticsearch_save_meta_as_text=CELERY_ELASTICSEARCH_SAVE_META_AS_TEXT
        elasticsearch_timeout=CELERY_ELASTICSEARCH_TIMEOUT gcs_base_path=GCS_BASE_PATH gcs_bucket=GCS_BUCKET
        gcs_project=GCS_PROJECT gcs_ttl=GCS_TTL mongodb_backend_settings=CELERY_MONGODB_BACKEND_SETTINGS
        s3_access_key_id=S3_ACCESS_KEY_ID s3_base_path=S3_BASE_PATH s3_bucket=S3_BUCKET
        s3_endpoint_url=S3_ENDPOINT_URL s3_region=S3_REGION s3_secret_access_key=S3_SECRET_ACCESS_KEY
        database_engine_callback cassandra_secure_bundle_path
    """,
    "beat notes every run at once": """
        beat_sync_every=CELERYBEAT_SYNC_EVERY
    """,
    "a lost connection is found and renewed by the broker's adapter": """
        broker_channel_error_retry=BROKER_CHANNEL_ERROR_RETRY
        broker_heartbeat_checkrate=BROKER_HEARTBEAT_CHECKRATE
    """,
    "the broker's adapter chooses how to log in": """
        broker_login_method=BROKER_LOGIN_METHOD
    """,
    "queues are durable, and on RabbitMQ quorum queues": """
        broker_native_delayed_delivery_queue_type=BROKER_NATIVE_DELAYED_DELIVERY_QUEUE_TYPE
        result_persistent=CELERY_RESULT_PERSISTENT
        task_create_missing_queue_type=CELERY_CREATE_MISSING_QUEUE_TYPE
        task_default_queue_type=CELERY_DEFAULT_QUEUE_TYPE
        worker_detect_quorum_queues=CELERYD_DETECT_QUORUM_QUEUES
    """,
    "remote control is published and not queued, so it has neither exchange nor queue": """
        control_exchange=CONTROL_EXCHANGE control_queue_durable=CONTROL_QUEUE_DURABLE
        control_queue_exclusive=CONTROL_QUEUE_EXCLUSIVE control_queue_expires=CONTROL_QUEUE_EXPIRES
        control_queue_ttl=CONTROL_QUEUE_TTL
    """,
    "events are published and not queued, so they have neither exchange nor queue": """
        event_exchange=CELERY_EVENT_EXCHANGE event_queue_durable=CELERY_EVENT_QUEUE_DURABLE
        event_queue_exclusive=CELERY_EVENT_QUEUE_EXCLUSIVE event_queue_expires=CELERY_EVENT_QUEUE_EXPIRES
        event_queue_prefix=CELERY_EVENT_QUEUE_PREFIX event_queue_ttl=CELERY_EVENT_QUEUE_TTL
        event_serializer=CELERY_EVENT_SERIALIZER
    """,
    "an unreachable store is tried again with exponential backoff and jitter": """
        redis_retry_on_timeout=CELERY_REDIS_RETRY_ON_TIMEOUT
        result_backend_base_sleep_between_retries_ms=CELERY_RESULT_BACKEND_BASE_SLEEP_BETWEEN_RETRIES_MS
        result_backend_max_sleep_between_retries_ms=CELERY_RESULT_BACKEND_MAX_SLEEP_BETWEEN_RETRIES_MS
    """,
    "an error that `get` raises always has the worker's traceback as its cause": """
        task_remote_tracebacks=CELERY_REMOTE_TRACEBACKS
    """,
    "a result is read from its store whenever it is asked for": """
        result_cache_max=CELERY_MAX_CACHED_RESULTS
    """,
    "a chord is counted by the result store and not polled": """
        result_chord_join_timeout=CELERY_RESULT_CHORD_JOIN_TIMEOUT
        result_chord_retry_interval=CELERY_RESULT_CHORD_RETRY_INTERVAL
    """,
    "results are kept under the ids of their tasks, and sent to no exchange": """
        result_exchange=CELERY_RESULT_EXCHANGE result_exchange_type=CELERY_RESULT_EXCHANGE_TYPE
    """,
    "a queue that task_queues does not name is reached by its name, and bound to no exchange": """
        task_create_missing_queue_exchange_type=CELERY_CREATE_MISSING_QUEUE_EXCHANGE_TYPE
    """,
    "there is one message format": """
        task_protocol=CELERY_TASK_PROTOCOL
    """,
    "the parts of a worker cannot be replaced by classes": """
        worker_agent=CELERYD_AGENT worker_autoscaler=CELERYD_AUTOSCALER worker_consumer=CELERYD_CONSUMER
    """,
    "a worker that lost its lease cannot settle, so its task runs elsewhere and counts once": """
        worker_cancel_long_running_tasks_on_connection_loss=CELERYD_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS
        worker_deduplicate_successful_tasks=CELERYD_DEDUPLICATE_SUCCESSFUL_TASKS
    """,
    "what is taken ahead adapts to run times; `worker_prefetch_multiplier` limits it": """
        worker_disable_prefetch=CELERYD_DISABLE_PREFETCH
        worker_enable_prefetch_count_reduction=CELERYD_ENABLE_PREFETCH_COUNT_REDUCTION
    """,
    "a stopping worker always gives its tasks back; `worker_shutdown_timeout` says when": """
        worker_enable_soft_shutdown_on_idle=CELERYD_ENABLE_SOFT_SHUTDOWN_ON_IDLE
        worker_soft_shutdown_timeout=CELERYD_SOFT_SHUTDOWN_TIMEOUT
    """,
    "delayed tasks wait in the broker, so a worker holds none": """
        worker_eta_task_limit=CELERYD_ETA_TASK_LIMIT worker_timer=CELERYD_TIMER
        worker_timer_precision=CELERYD_TIMER_PRECISION
    """,
    "a dead child is seen at once, and its tasks run again up to `task_max_deliveries`": """
        worker_lost_wait=CELERYD_WORKER_LOST_WAIT task_retry_on_worker_lost
    """,
    "children are forked from a warm template, one process for each": """
        worker_pool_putlocks=CELERYD_POOL_PUTLOCKS worker_pool_start_method
    """,
    "a worker's children can always be restarted by remote control": """
        worker_pool_restarts=CELERYD_POOL_RESTARTS
    """,
    "revoked tasks are remembered by the broker, not in a file": """
        worker_state_db=CELERYD_STATE_DB
    """,
    "beat takes no remote control": """
        beat_enable_remote_control beat_remote_control_max_tick_age
    """,
    "`broker_publish_timeout` limits the whole of a send": """
        broker_pool_acquire_timeout
    """,
    "give it to the command line or to the service manager that starts the process": """
        beat_executable beat_gid beat_uid beat_logfile beat_pidfile beat_umask worker_executable worker_gid
        worker_uid worker_logfile worker_pidfile worker_umask events_executable events_gid events_uid
        events_logfile events_pidfile events_umask
    """,
    "other result stores are found by their entry points": """
        override_backends
    """,
    "the user name and the password stand in the URL": """
        redis_backend_credential_provider
    """,
    "a connection is tried when it is used": """
        redis_backend_health_check_interval
    """,
    "result stores are always safe to use from several threads": """
        result_backend_thread_safe
    """,
})  # fmt: skip

_PARTS_OF_URLS: Mapping[str, str] = MappingProxyType({
    "broker_url": """
        broker_host=BROKER_HOST broker_password=BROKER_PASSWORD broker_port=BROKER_PORT
        broker_transport=BROKER_TRANSPORT broker_user=BROKER_USER broker_vhost=BROKER_VHOST
    """,
    "result_backend": """
        redis_db=CELERY_REDIS_DB redis_host=CELERY_REDIS_HOST redis_password=CELERY_REDIS_PASSWORD
        redis_port=CELERY_REDIS_PORT redis_username=CELERY_REDIS_USERNAME
    """,
})  # fmt: skip

_LEASES = "a task belongs to its worker while that worker lives, however long it runs"
_OWN_LAYOUT = "messages are kept in another way here, which has no such part"


def _rows(why: str, text: str, missed_without: str | None = None) -> dict[str, WithoutEffect]:
    pairs = (row.partition("=")[::2] for row in text.split())
    return {name: WithoutEffect(name, why, old or None, missed_without) for name, old in pairs}


def _part_of(url: str) -> str:
    return f"`{url}` says it: scheme://user:password@host:port/name"


WITHOUT_EFFECT: Mapping[str, WithoutEffect] = MappingProxyType(
    dict(
        row
        for rows in (
            *(_rows(why, text) for why, text in _ACCEPTED.items()),
            *(_rows(_part_of(url), text, url) for url, text in _PARTS_OF_URLS.items()),
        )
        for row in rows.items()
    )
)

OLD_NAMES_WITHOUT_EFFECT: Mapping[str, str] = MappingProxyType(
    {row.old: row.name for row in WITHOUT_EFFECT.values() if row.old}
)

#: Keys of `broker_transport_options` and `result_backend_transport_options`, and why they do nothing.
OPTIONS_WITHOUT_EFFECT: Mapping[str, str] = MappingProxyType(
    {
        "visibility_timeout": _LEASES,
        "unacked_restore_limit": _LEASES,
        "ack_emulation": "every message is acknowledged; `task_acks_late` says when",
        "unacked_key": _OWN_LAYOUT,
        "unacked_index_key": _OWN_LAYOUT,
        "unacked_mutex_key": _OWN_LAYOUT,
        "unacked_mutex_expire": _OWN_LAYOUT,
        "fanout_prefix": _OWN_LAYOUT,
        "fanout_patterns": _OWN_LAYOUT,
        "sep": _OWN_LAYOUT,
        "priority_steps": "every priority has an order of its own; there are no steps",
        "result_chord_ordered": "a chord's results are always in order",
    }
)

#: Settings that are known, checked and shown, and that nothing reads in this version. Who sets one is told.
NOT_YET: Mapping[str, str] = MappingProxyType(
    {
        "beat_schedule": "there is no `celeriac beat` in this version",
        "beat_scheduler": "there is no `celeriac beat` in this version",
        "beat_schedule_filename": "there is no `celeriac beat` in this version",
        "beat_max_loop_interval": "there is no `celeriac beat` in this version",
        "beat_cron_starting_deadline": "there is no `celeriac beat` in this version",
        "task_default_rate_limit": "rate limits are not enforced in this version",
        "worker_disable_rate_limits": "rate limits are not enforced in this version",
        "worker_send_task_events": "events are not published in this version",
        "task_send_sent_event": "events are not published in this version",
        "task_queue_max_priority": "priorities are 0 to 9 on every queue in this version",
        "result_chord_expires": "a chord that is never completed is forgotten after 30 days",
        "security_key": "messages are not signed in this version",
        "security_key_password": "messages are not signed in this version",
        "security_certificate": "messages are not signed in this version",
        "security_cert_store": "messages are not signed in this version",
    }
)
