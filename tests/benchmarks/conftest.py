"""Where the checkout is: benchmarks are run from its root."""

from pathlib import Path

import pytest


@pytest.fixture
def root() -> Path:
    return Path(__file__).parents[2]
