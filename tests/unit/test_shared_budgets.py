"""The seam of limits that nodes share: what a node asks, what the store's rows lease, what lets go."""

from engine import _core

US = 1_000_000
TENANT, PROVIDER = 7, 8


def _registry() -> _core.Registry:
    def quota(key: int, scope: int) -> tuple[int, int, int, int, int, int, int, int, int, int]:
        return (key, scope, 1, 0, 1, 100, 10 * US, 10, 0, 3)

    return _core.Registry(1, [(1, True)], [], [quota(TENANT, 6), quota(PROVIDER, 5)])


def test_rows_begin_empty_and_lease_what_has_come_since() -> None:
    registry = _registry()
    asks = [(TENANT, None, 5, 2), (PROVIDER, None, 5, 2), (99, None, 1, 1)]
    first = registry.lease_budgets(asks, 0)
    assert first[2] is None
    answers = [answer for answer in first if answer is not None]
    assert [tokens for tokens, *_ in answers] == [0, 0]
    again_us = answers[0][1]
    assert 0 < again_us < US
    rows = [answer[3] for answer in answers]
    later = registry.lease_budgets([(TENANT, rows[0], 5, 2), (PROVIDER, rows[1], 5, 2)], again_us)
    assert [answer and answer[0] for answer in later] == [2, 2]
    assert [answer and answer[2] for answer in later] == [200_000, 200_000]


def test_a_node_asks_for_nothing_that_nobody_waits_for() -> None:
    scheduler = _core.Scheduler({"held_messages_max": 10, "leased_budgets": 1}, _registry(), 0)
    scheduler.pop(0, 0, 1)
    assert scheduler.budgets_wanted(0) == []
    scheduler.grant(TENANT, 1, US, 0)
    scheduler.grant(99, 1, US, 0)
