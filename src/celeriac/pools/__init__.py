"""The table of pools: how many processes, how many slots in each, which class.

`-c N` is the concurrency: the product of both. `processes="concurrency"` means N processes of one slot, `slots=
"concurrency"` means one process of N slots.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from celeriac import plugins
from celeriac.exceptions import UnknownScheme


class PoolSpec(NamedTuple):
    """One pool. `main_thread`: runs happen in the child's main thread, where signals can interrupt them."""

    processes: int | Literal["concurrency"]
    slots: int | Literal["concurrency"]
    path: str
    main_thread: bool = False


#: The name users type after `-P` -> the pool. A third party adds its own by the entry point `celeriac.pools`.
POOLS: Final[Mapping[str, PoolSpec]] = {
    "prefork": PoolSpec("concurrency", 1, "celeriac.pools.solo:SoloPool", main_thread=True),
    "processes": PoolSpec("concurrency", 1, "celeriac.pools.solo:SoloPool", main_thread=True),
    "solo": PoolSpec(1, 1, "celeriac.pools.solo:SoloPool", main_thread=True),
    "threads": PoolSpec(1, "concurrency", "celeriac.pools.threads:ThreadsPool"),
}


def spec(name: str) -> PoolSpec:
    """The pool of that name. Raises: UnknownScheme, naming the nearest."""
    try:
        return POOLS[name]
    except KeyError:
        raise UnknownScheme(
            f"no pool is called {name!r}.{plugins.nearest(name, POOLS)} Known: {', '.join(sorted(POOLS))}"
        ) from None


def shape(name: str, concurrency: int) -> tuple[int, int]:
    """How many processes, and how many slots in each, a pool has at that concurrency."""
    row = spec(name)
    processes = concurrency if row.processes == "concurrency" else row.processes
    slots = concurrency if row.slots == "concurrency" else row.slots
    return processes, slots
