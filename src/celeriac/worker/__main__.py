"""`python -m celeriac.worker FD`: the template process, as its supervisor starts it.

It only ties the real application finder and the real child to `template.serve`.
"""

from __future__ import annotations

import sys
from typing import Any

from celeriac import finding
from celeriac.wire import WorkerOptions
from celeriac.worker import template
from celeriac.worker.main import run_child


def load(options: WorkerOptions) -> Any:
    """The application, with the command line's settings and all its tasks."""
    app = finding.find_app(options.app)
    app.conf.config_from_flags(options.settings)
    app.load_tasks(options.include)
    app.finalize()
    return app


if __name__ == "__main__":
    sys.exit(template.serve(int(sys.argv[1]), load, run_child))
