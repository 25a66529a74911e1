"""`python -m celeriac.worker FD`: the template process, as its supervisor starts it.

It ties the real application and the real child to `template.serve`. Both are loaded by name, after the pool has
patched the standard library if it does: what is imported above keeps the system's own calls.
"""

from __future__ import annotations

import sys
from typing import Any

from celeriac import plugins
from celeriac.board import ChildBoard
from celeriac.wire import Channel, Fork, Word, WorkerOptions
from celeriac.worker import template


def load(options: WorkerOptions) -> Any:
    """The application. See `opening.load`."""
    template.patch_early(options)
    return plugins.load("celeriac.worker.opening:load")(options)


def run_child(app: Any, options: WorkerOptions, fork: Fork, channel: Channel, board: ChildBoard) -> int:
    """Be a child. See `main.run_child`."""
    code: int = plugins.load("celeriac.worker.main:run_child")(app, options, fork, channel, board)
    return code


def tell(app: Any, options: WorkerOptions, word: Word | None) -> None:
    """Let user code know. See `life.tell`."""
    plugins.load("celeriac.worker.life:tell")(app, options, word)


if __name__ == "__main__":
    sys.exit(template.serve(int(sys.argv[1]), load, run_child, tell))
