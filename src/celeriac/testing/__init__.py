"""Contract suites: the tests that every broker and result store passes, for yours too.

A broker proves itself with a subclass and one fixture, which makes connections to one and the same place:

    from celeriac.testing import BrokerContract

    class TestNats(BrokerContract):
        @pytest.fixture
        def make_broker(self):
            return lambda: celeriac.brokers.connect("nats://localhost")

`ResultStoreContract` asks for `make_store` likewise, and `SharedPlaceContract` for both, where one server
keeps messages and results. The suites use queues and keys of their own, and leave what else is there alone.
They need pytest; nothing outside this package imports it.
"""

import pkgutil

import pytest

# The suites are not test modules by name: without this their assertions would fail without saying why.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

from celeriac.testing.brokers import BrokerContract  # noqa: E402
from celeriac.testing.results import ResultStoreContract, SharedPlaceContract  # noqa: E402

__all__ = ["BrokerContract", "ResultStoreContract", "SharedPlaceContract"]
