"""The engine's fixtures, and a canned provider."""

import json
from collections.abc import AsyncIterator

import pytest

from tests.conformance.canned_provider import Answer, CannedProvider
from tests.corridor.conftest import StartEngine, empty_store, new_store_url, start_engine, store_kind

__all__ = ["StartEngine", "canned_telnyx", "empty_store", "new_store_url", "start_engine", "store_kind"]


@pytest.fixture
async def canned_telnyx() -> AsyncIterator[CannedProvider]:
    """A server that answers as Telnyx does when a test has nothing else in mind: taken."""
    taken = Answer.of(200, json.dumps({"data": {"id": "provider-id", "to": [{"status": "queued"}]}}).encode())
    provider = CannedProvider(lambda body: str(json.loads(body)["to"]), taken)
    await provider.start()
    yield provider
    await provider.stop()
