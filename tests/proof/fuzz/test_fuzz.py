"""Some thousand spoiled inputs of each target and some hundred spoiled connections; `make fuzz` goes on from there."""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from tests.proof.abuse.run import abused
from tests.proof.fuzz.inputs import CANARY, inputs
from tests.proof.fuzz.live import say, session, webhook_session
from tests.proof.fuzz.seam import TARGETS
from tests.proof.fuzz.store_damage import damaged

pytestmark = pytest.mark.timeout(240)
INPUTS: Final = 2000
SEED: Final = 1
SESSIONS: Final = 150


@pytest.mark.parametrize("name", TARGETS)
def test_only_documented_errors_come_out(name: str) -> None:
    for data in inputs(name, 1, INPUTS):
        TARGETS[name](data)


def test_a_damaged_store_is_refused_or_holds_what_was_acknowledged() -> None:
    count, refused = asyncio.run(damaged(iter((SEED,)), lambda: True))
    assert 0 < refused < count, "a judge that says the same of everything"


@pytest.mark.parametrize("edge", ["grpcio", "native"])
def test_no_session_ends_or_unsettles_the_engine(tmp_path: Path, edge: str) -> None:
    with abused(tmp_path, {"LONGWAVE_EDGE": edge}) as target:
        pid = target.engine.pid
        port = int(target.engine.address.rpartition(":")[2])

        async def sessions() -> list[int]:
            answered: list[int] = []
            for seed in range(SESSIONS):
                said = await asyncio.gather(
                    say(port, session(seed, target.engine.api_key)), say(target.webhook_port, webhook_session(seed))
                )
                answered += said
            return answered

        assert sum(read > 0 for read in asyncio.run(sessions())) > SESSIONS // 2, "they met nobody"
        after = target.window(1)
        assert (after.failed, after.webhooks_failed, target.engine.pid) == (0, 0, pid)
        log = target.engine.store.with_name("engine.log").read_text(encoding="utf-8", errors="replace")
        assert "Traceback" not in log
        assert CANARY not in log
        assert "hpack" not in log, "whoever calls can fill the log"
        assert target.engine.api_key not in log
