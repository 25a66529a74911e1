"""Remote control: revoking tasks, and asking workers how they are. What `app.control` is.

`revoking` has what must hold although no worker hears it; `asking` talks to those that do. `Control` and `Inspect` give
them Celery's names.
"""
