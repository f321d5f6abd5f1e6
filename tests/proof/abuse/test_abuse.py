"""Beside each abuser a good client is served, every call of it, and the engine's memory stays bounded.

How much later it is served is measured by `python -m tests.proof.abuse`, whose dated results lie in
`loadtest/results/`; the bounds here leave room for a machine that is busy with other things.
"""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.proof.abuse.abusers import ABUSES
from tests.proof.abuse.run import Abused, abused

pytestmark = [pytest.mark.timeout(240), pytest.mark.alone]
WINDOW_S: Final = 2.0
MEMORY_MIB: Final = 300
BUSY_MS: Final = 1_500.0
WORDS: Final = {"idle_streams": "streams opened: 2,000", "bad_signatures": "401: ", "oversize_webhooks": "413: "}


@pytest.fixture(scope="module", params=["grpcio", "native"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Abused]:
    with abused(tmp_path_factory.mktemp("abuse"), {"LONGWAVE_EDGE": request.param}) as running:
        running.window(WINDOW_S)
        yield running


@pytest.mark.parametrize("name", ABUSES)
def test_a_good_client_is_served_beside(name: str, target: Abused) -> None:
    quiet = target.window(WINDOW_S)
    with target.abuser(name) as did:
        loud = target.window(WINDOW_S)
    assert WORDS.get(name, ": ") in did[0], "the abuser did nothing"
    assert (loud.failed, loud.webhooks_failed) == (0, 0), did
    assert loud.p99_ms <= max(3 * quiet.p99_ms, BUSY_MS), did
    assert loud.rss_mib - quiet.rss_mib <= MEMORY_MIB, did
