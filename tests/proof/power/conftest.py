"""Leaves out what this machine truly cannot do, found by trying."""

import pytest

from tests.corridor.conftest import carrier, carrier_process, empty_store, new_store_url, start_engine
from tests.left_out import LEFT_OUT
from tests.proof.power import disk, fault_shim

__all__ = ["carrier", "carrier_process", "empty_store", "new_store_url", "start_engine"]

# What a test asks for by a fixture of this name, and how to find out whether it can be had.
WHY_NOT = {"loop_disk": disk.why_not, "shim": fault_shim.why_not}


@pytest.fixture
def store_kind() -> str:
    """Faults of files, and of what lies on this machine's disk."""
    return "sqlite"


@pytest.fixture(scope="session")
def loop_disk() -> None:
    """The power of a disk can be cut here: needs root and loop devices."""


@pytest.fixture(scope="session")
def shim() -> None:
    """Calls can be made to fail here: needs a C compiler."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that need what is not to be had."""
    said = config.stash[LEFT_OUT]
    for fixture, why_not in WHY_NOT.items():
        needing = [item for item in items if fixture in getattr(item, "fixturenames", ())]
        reason = why_not() if needing else ""
        if reason:
            config.hook.pytest_deselected(items=needing)
            items[:] = [item for item in items if item not in needing]
            said += [f"left out, {reason}: {item.nodeid}" for item in needing]
