"""Processes that seeds run in: as many as there are processors, for the tests of a file."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """They are begun anew: what a forked one has of its parent may be in another state each time."""
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        yield pool
