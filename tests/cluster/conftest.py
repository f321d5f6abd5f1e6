"""A server that each node reaches by a way of its own, where the machine can have one."""

from collections.abc import Iterator

import pytest

from tests.left_out import LEFT_OUT
from tests.servers import apart
from tests.servers.apart import Apart
from tests.servers.mariadb import quick_folder


@pytest.fixture
def ways() -> Iterator[Apart]:
    """With three ways."""
    with quick_folder() as folder:
        server = Apart(folder / "server", 3)
        try:
            server.start()
            yield server
        finally:
            server.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that need what is not to be had."""
    needing = [item for item in items if "ways" in getattr(item, "fixturenames", ())]
    reason = apart.why_not() if needing else ""
    if reason:
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]
        config.stash[LEFT_OUT] += [f"left out, {reason}: {item.nodeid}" for item in needing]
