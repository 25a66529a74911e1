"""What a result store promises.

A result is a small record under the 16-byte key of its task. The store knows nothing of what is in a record:
`celeriac.result` writes and reads them (`Stored`). `tests/results` runs one contract suite on every adapter.

A store also keeps *joins*: results that are waited for together, and the message that is sent when the last has come.
It counts places, not arrivals, so that a run that is repeated counts once. Where the store shares its broker's place,
results come to a join by settlements (`Settlement.arrivals`), in one step with them; `arrive` is for where they
are apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from celeriac.brokers.contract import Arrival, Join, Outgoing, Record


@runtime_checkable
class ResultStore(Protocol):
    """Keeps results until they expire. Safe to call from several threads; fork-aware.

    Every verb raises ResultStoreUnavailable when the store cannot be reached, and BackendError when it refuses.
    """

    @property
    def place(self) -> str:
        """Names the server and database, without secrets; equal to a broker's where both are one."""
        ...

    def put(self, records: Sequence[Record]) -> None:
        """Store records in place of earlier ones, each until its `ttl` has passed (None: for ever); wake who waits."""
        ...

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The records that are there, by key; at one round trip for many keys."""
        ...

    def watch(self, keys: Iterable[bytes]) -> Watch:
        """Wait for keys, one or many, by notification where the store can tell."""
        ...

    def forget(self, keys: Sequence[bytes]) -> int:
        """Delete records. Returns how many were there."""
        ...

    def open_join(self, join: Join) -> None:
        """From now on results may come to it. Changes nothing where it is open already."""
        ...

    def size_join(self, key: bytes, size: int) -> list[Outgoing]:
        """Say how many a join waits for. Returns its message, for the caller to send, if they had all come."""
        ...

    def grow_join(self, key: bytes) -> int | None:
        """Let a join wait for one more. Returns the new place.

        None: there is no join of that key, its size is not known, or it is complete.
        """
        ...

    def arrive(self, arrivals: Sequence[Arrival]) -> list[Outgoing]:
        """Note results that have come to joins. Returns the messages of those that are complete by it, for the
        caller to send.

        The arrival that completed a join returns its message each time it is repeated: nobody knows whether the caller
        lived to send it. To a join that is not there nothing comes.
        """
        ...

    def gathered(self, key: bytes) -> list[bytes] | None:
        """The results of a join by place; None: it is not complete, or there is none of that key."""
        ...

    def end_joins(self, keys: Sequence[bytes]) -> None:
        """Delete joins with all that came to them."""
        ...

    def sweep(self) -> int:
        """Delete what has expired, where the server does not do so by itself. Returns how many."""
        ...

    def close(self) -> None:
        """Close all connections. Idempotent; a later call opens new ones."""
        ...


@runtime_checkable
class Watch(Protocol):
    """A set of keys that are waited for. A context manager; leaves nothing behind at its end."""

    def next(self, timeout: float) -> dict[bytes, bytes]:
        """Records of watched keys that are new since they were last returned (at first: all there are).

        Blocks until there is one, at most `timeout` seconds; empty then.
        """
        ...

    def discard(self, keys: Iterable[bytes]) -> None:
        """Stop watching these; they are final."""
        ...

    def __enter__(self) -> Watch: ...

    def __exit__(self, *exc_info: object) -> None: ...


class ResultStoreFactory(Protocol):
    """How adapters are made: the class itself. `options` are those of `result_backend_transport_options`."""

    def __call__(self, url: Any, options: Mapping[str, Any]) -> ResultStore: ...
