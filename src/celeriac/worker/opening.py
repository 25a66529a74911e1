"""Opening the application in a template: found, told the command line's settings, and imported with all its tasks.

Imported after a pool's `patch`, so that neither this package nor the application gets hold of what it replaces.
"""

from __future__ import annotations

import contextlib

from celeriac import finding, plugins, pools, task_modules
from celeriac.app import Celeriac
from celeriac.exceptions import ImproperlyConfigured
from celeriac.wire import WorkerOptions
from celeriac.worker import life, template


def load(options: WorkerOptions) -> Celeriac:
    """The application, with the command line's settings and all its tasks.

    What every child needs is loaded here, once: adapters, pool and the child's own code. No connection is opened.

    Raises:
        ImproperlyConfigured: its settings name a pool that should have been known before it was imported.
    """
    app = finding.find_app(options.app)
    app.conf.config_from_flags(options.settings)
    life.imports(app)
    if app.conf.worker_imports == "eager":
        app.load_tasks(options.include)
    else:
        app.modules = task_modules.find(app, options.include)
    life.configures(app, options)
    app.finalize()
    if app.modules is not None:
        for module in options.learned:
            # One that is broken by now fails in the child that needs it, and is told there.
            with contextlib.suppress(ImproperlyConfigured):
                app.modules.load(module)
    # Making these loads their drivers.
    _ = app.broker, app.reader, app.backend
    pool = options.pool or app.conf.worker_pool
    spec = pools.spec(pool)
    if spec.patch and pool != template.early_pool(options):
        raise ImproperlyConfigured(
            f"worker_pool is {pool!r}, which patches the standard library before the application is imported, and "
            f"it was read after that: start this worker with  -P {pool}"
        )
    plugins.load(spec.path)
    plugins.load("celeriac.worker.main")
    life.begins(app, options)
    return app
