"""Sending within a transaction of the application's: `task.apply_async(args, connection=connection)`.

The task exists if and only if that transaction commits. Loaded by name, when somebody first does so.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from celeriac.brokers.abilities import Transactional
from celeriac.brokers.contract import Broker, Outgoing
from celeriac.exceptions import ImproperlyConfigured, SettingHasNoEffect
from celeriac.send_options import WITHOUT_EFFECT, is_database


def send(broker: Broker, batch: Sequence[Outgoing], connection: Any) -> bool:
    """Store messages over that connection. False: it is none to a database, and nothing was sent.

    Raises: as `Transactional.send_within`.
    """
    if not is_database(connection):
        # Celery's, to a broker.
        warnings.warn(
            f"the send option 'connection' has no effect: {WITHOUT_EFFECT['connection']}",
            SettingHasNoEffect,
            stacklevel=5,
        )
        return False
    if not isinstance(broker, Transactional):
        raise ImproperlyConfigured(
            f"connection= sends within a transaction of a database that is the broker; this broker is {broker.place}"
            f"{', one of several' if hasattr(broker, 'all') else ''}"
        )
    broker.send_within(batch, connection)
    return True
