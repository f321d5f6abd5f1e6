"""The simulated carrier and the empty store, as the corridor's tests have them."""

from tests.corridor.conftest import carrier, carrier_process, empty_store

__all__ = ["carrier", "carrier_process", "empty_store"]
