"""Between the attempt's commit and its bytes: what was written down and cannot leave is tried again."""

from typing import Any
from unittest import mock

from engine.http_client import HttpPool, NoFreeSlotError
from tests.corridor.carrier_process import Carrier
from tests.corridor.engine_fixture import Engine, submission


async def test_attempts_whose_slot_was_taken_meanwhile_are_tried_again(engine: Engine, carrier: Carrier) -> None:
    """A look-up shares the pool: it may take the last slot while attempts are being written down."""
    refused = 2
    submit = HttpPool.submit

    def taken(self: HttpPool, request: object, data: bytes) -> None:
        nonlocal refused
        if refused:
            refused -= 1
            raise NoFreeSlotError
        submit(self, request, data)

    with mock.patch.object(HttpPool, "submit", taken):
        ids = await engine.submit(*(submission(index) for index in range(4)))
        for identity in ids:
            await engine.until_state(identity, "DELIVERED")
    assert refused == 0
    records: list[dict[str, Any]] = await carrier.records()
    assert len(records) == len(ids)
    attempts = await engine.rows("SELECT attempt FROM messages ORDER BY attempt")
    assert [count for (count,) in attempts] != [1] * len(ids)
