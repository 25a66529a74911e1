"""Where Celery has messages made up for tests of a worker's insides. Importing this says what to use instead."""

raise ImportError(
    "celeriac.contrib.testing has no TaskMessage and no ContextMock: there is no worker.request.Request to give them "
    "to. Send the task, and run it with celeriac.contrib.testing.inline.inline_worker(app).drain() or task.apply()"
)
