"""No result store (`result_backend = "disabled://"`): nothing is kept, and asking for a result is an error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from celeriac.brokers.contract import Record
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

    def sweep(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing."""

    def _refusal(self) -> ResultNotStored:
        return ResultNotStored("no results are kept: result_backend is 'disabled://'")
