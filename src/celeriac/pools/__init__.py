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
    """One pool.

    `main_thread`: runs happen in the child's main thread, one at a time, where signals can interrupt them. `patch`:
    called by the template before the application is imported. `loop`: runs share the main thread and take turns;
    the class is a `LoopPool`.
    """

    processes: int | Literal["concurrency"]
    slots: int | Literal["concurrency"]
    path: str
    main_thread: bool = False
    patch: str = ""
    loop: bool = False


#: The name users type after `-P` -> the pool. A third party adds its own by the entry point `celeriac.pools`.
POOLS: Final[Mapping[str, PoolSpec]] = {
    "asyncio": PoolSpec(1, "concurrency", "celeriac.pools.asyncio:AsyncioPool"),
    "gevent": PoolSpec(
        1,
        "concurrency",
        "celeriac.pools.gevent:GeventPool",
        patch="celeriac.pools.gevent_patch:patch",
        loop=True,
    ),
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


def range_of(name: str, concurrency: int | None, least: int, most: int) -> tuple[int, int, int]:
    """The fewest and the most processes, and how many slots in each, for so many tasks at once.

    Slots are made when they are needed and cost nothing before: where a process may have many, there are as many
    processes as `concurrency` slots in each make necessary; without that, one process with all of them.
    """
    slots = 1 if spec(name).slots == 1 else concurrency or most
    fewest = max(1, -(-least // slots))
    return fewest, max(fewest, -(-most // slots)), slots
