"""Makes the standard library cooperative, for the pool of greenlets. Loaded by the template before the application.

gevent asks the metadata of every installed distribution for plugins that want to hear of each patch, and what it
imports and reads for that stays in memory: 2.5 MB in every worker. Next to nobody has such a plugin, so they are looked
for in a leaner way first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from gevent import monkey

from celeriac import plugins

#: What the names of the groups of such entry points begin with.
_GROUPS = b"gevent.plugins.monkey."


def patch() -> None:
    """`gevent.monkey.patch_all`. Its events and its plugins hear what they ever do."""
    events: Any = plugins.load("gevent.events")
    if not has_plugins(sys.path):
        events.notify_and_call_entry_points = events.notify
    monkey.patch_all()


def has_plugins(path: Iterable[str]) -> bool:
    """Whether a distribution in these places may have a plugin; one that is not plain files may."""
    return any(place is None or _GROUPS in place for folder in path for place in _entry_points(folder))


def _entry_points(folder: str) -> Iterator[bytes | None]:
    """What the distributions in a folder declare, as it is in their files. None: that is not known."""
    try:
        names = os.listdir(folder or ".")
    except FileNotFoundError:
        return
    except OSError:
        yield None
        return
    for name in names:
        # gevent's own plugin warns of patches that are left out: here none is.
        if name.endswith((".dist-info", ".egg-info")) and not name.startswith("gevent-"):
            try:
                with open(f"{folder or '.'}/{name}/entry_points.txt", "rb") as file:
                    yield file.read()
            except FileNotFoundError:
                continue
            except OSError:
                # An `.egg-info` may be a file: it has no entry points.
                yield b"" if os.path.isfile(f"{folder or '.'}/{name}") else None
