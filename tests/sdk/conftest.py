"""Fixtures of the SDK's tests: a scripted server, and settings that wait milliseconds instead of seconds."""

from collections.abc import Iterator

import pytest

from longwave.client import BatchLimits, RetryPolicy
from tests.sdk.fake_server import FakeServer, start


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    stop = start(fake)
    yield fake
    stop()


@pytest.fixture
def retry() -> RetryPolicy:
    return RetryPolicy(backoff_initial_s=0.001, backoff_max_s=0.005)


@pytest.fixture
def limits() -> BatchLimits:
    return BatchLimits(batch_messages_max=10, window_messages_max=40)
