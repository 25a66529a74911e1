"""Where Celery has `Manager`, with which its own tests wait for a worker. Importing this says what to use instead."""

raise ImportError(
    "celeriac.contrib.testing has no Manager: wait for results with get(timeout=...) and join(timeout=...), ask "
    "workers with app.control.inspect(), or run what is due with celeriac.contrib.testing.inline.inline_worker(app)"
)
