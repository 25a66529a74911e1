"""No result store (`result_backend = "disabled://"`): nothing is kept, and asking for a result is an error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from celeriac.brokers.contract import Arrival, Join, Outgoing, Record
from celeriac.exceptions import ResultNotStored
from celeriac.results.contract import Watch


class DisabledResults:
    """Takes every record and keeps none. See `ResultStore`."""

    @property
    def place(self) -> str:
        return "disabled"

    def put(self, records: Sequence[Record]) -> None:
        """Nothing."""

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Raises: ResultNotStored."""
        raise self._refusal()

    def watch(self, keys: Iterable[bytes]) -> Watch:
        """Raises: ResultNotStored."""
        raise self._refusal()

    def forget(self, keys: Sequence[bytes]) -> int:
        return 0

    def open_join(self, join: Join) -> None:
        """Raises: ResultNotStored."""
        raise self._refusal("a chord, or a very long chain, keeps its state in the result store, and ")

    def size_join(self, key: bytes, size: int) -> list[Outgoing]:
        """Raises: ResultNotStored."""
        raise self._refusal()

    def grow_join(self, key: bytes) -> int | None:
        return None

    def arrive(self, arrivals: Sequence[Arrival]) -> list[Outgoing]:
        return []

    def gathered(self, key: bytes) -> list[bytes] | None:
        return None

    def end_joins(self, keys: Sequence[bytes]) -> None:
        """Nothing."""

    def sweep(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing."""

    def _refusal(self, what: str = "") -> ResultNotStored:
        return ResultNotStored(f"{what}no results are kept: result_backend is 'disabled://'")
