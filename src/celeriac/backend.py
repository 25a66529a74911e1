"""The application's result store, as `app.backend`: the store's own verbs by key, and Celery's verbs by task id.

Waiting is the business of `async_result`; nothing here waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from celeriac import clock, message, states, stored
from celeriac.brokers.contract import Arrival, Join, Outgoing, Record
from celeriac.results.contract import ResultStore, Watch
from celeriac.stored import Stored
from celeriac.waiting import UNKNOWN, meta_of


class Backend:
    """A result store under the settings of an application. See `ResultStore` for what each verb promises."""

    def __init__(self, store: ResultStore, conf: Any) -> None:
        self._store = store
        self._conf = conf

    @property
    def place(self) -> str:
        return self._store.place

    def put(self, records: Sequence[Record]) -> None:
        self._store.put(records)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return self._store.get(keys)

    def watch(self, keys: Iterable[bytes]) -> Watch:
        return self._store.watch(keys)

    def forget(self, keys: str | Sequence[bytes]) -> int:
        """Delete records, given by their keys; or one result, given by its task id."""
        return self._store.forget([message.key_of(keys)] if isinstance(keys, str) else keys)

    def open_join(self, join: Join) -> None:
        self._store.open_join(join)

    def size_join(self, key: bytes, size: int) -> list[Outgoing]:
        return self._store.size_join(key, size)

    def grow_join(self, key: bytes) -> int | None:
        return self._store.grow_join(key)

    def arrive(self, arrivals: Sequence[Arrival]) -> list[Outgoing]:
        return self._store.arrive(arrivals)

    def gathered(self, key: bytes) -> list[bytes] | None:
        return self._store.gathered(key)

    def end_joins(self, keys: Sequence[bytes]) -> None:
        self._store.end_joins(keys)

    def sweep(self) -> int:
        return self._store.sweep()

    def close(self) -> None:
        self._store.close()

    # -- by task id -----------------------------------------------------------------------------------------

    def written(self, task_id: str, record: Stored) -> Record:
        """What is known of a task, as it is stored. Raises: EncodeError."""
        conf = self._conf
        accept = conf.result_accept_content or conf.accept_content
        data = stored.encode(record, conf.result_serializer, accept, conf.result_compression)
        return Record(message.key_of(task_id), data, lifetime(conf, record.state))

    def store_record(self, task_id: str, record: Stored) -> None:
        """Store what is known of a task. Raises: ResultStoreUnavailable, EncodeError."""
        self.put([self.written(task_id, record)])

    def ensure_chords_allowed(self) -> None:
        """Every result store can do chords, but `disabled://`. Raises: ResultNotStored."""
        if self.place == "disabled":
            self._store.get([])

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None
    ) -> Any:
        """Store a state of a task, with its return value, its exception or what else there is to say of it."""
        ended_at = clock.now() if state in states.READY_STATES else None
        self.store_record(task_id, Stored(state, result, ended_at, traceback))
        return result

    def record_of(self, task_id: str) -> Stored:
        """What is known of a task; the state is PENDING where that is nothing."""
        key, conf = message.key_of(task_id), self._conf
        data = self.get([key]).get(key)
        accept = conf.result_accept_content or conf.accept_content
        return UNKNOWN if data is None else stored.decode(data, accept)

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """What is known of a task, as Celery shows it: `status`, `result`, `traceback`, `children`..."""
        return meta_of(task_id, self.record_of(task_id))

    def get_state(self, task_id: str) -> str:
        """The state of a task; PENDING where nothing is known of it."""
        return self.record_of(task_id).state

    get_status = get_state

    def get_result(self, task_id: str) -> Any:
        """The return value of a task, or its exception; None where nothing is known of it."""
        return self.record_of(task_id).result

    def get_traceback(self, task_id: str) -> str | None:
        """The traceback of a failed task."""
        return self.record_of(task_id).traceback

    def __repr__(self) -> str:
        return f"<Backend: {self.place}>"


def lifetime(conf: Any, state: str) -> float | None:
    """How long (seconds) a record of that state is kept; None is for ever."""
    seconds: float | None = conf.result_expires
    if state == states.FAILURE and conf.result_failure_expires is not None:
        seconds = conf.result_failure_expires
    return seconds or None
