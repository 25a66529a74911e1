"""`python -m celeriac.worker FD`: the template process, as its supervisor starts it.

It only ties the real application finder and the real child to `template.serve`.
"""

from __future__ import annotations

import sys

from celeriac import finding, plugins, pools
from celeriac.app import Celeriac
from celeriac.wire import WorkerOptions
from celeriac.worker import template
from celeriac.worker.main import run_child


def load(options: WorkerOptions) -> Celeriac:
    """The application, with the command line's settings and all its tasks.

    What every child needs is loaded here, once: adapters and pool. No connection is opened.
    """
    app = finding.find_app(options.app)
    app.conf.config_from_flags(options.settings)
    app.load_tasks(options.include)
    app.finalize()
    # Making these loads their drivers.
    _ = app.broker, app.backend
    plugins.load(pools.spec(options.pool or app.conf.worker_pool).path)
    return app


if __name__ == "__main__":
    sys.exit(template.serve(int(sys.argv[1]), load, run_child))
