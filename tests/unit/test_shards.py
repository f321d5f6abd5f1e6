"""The seam of shards and shared ledgers: what is owned waits; a batch names its leases and reservations."""

import pytest

from engine import _core

US = 1_000_000
NOW_US = 1_790_000_000 * US
ATT_DAY, DAY = 4, 20
CAMPAIGNS = (10, 11, 11 + _core.SHARDS)


def _registry() -> _core.Registry:
    numbers = {campaign: 12_025_550_000 + campaign for campaign in CAMPAIGNS}
    campaigns = [(key, 1, 1, f"c{key}", 1, 0, "", [number]) for key, number in numbers.items()]
    return _core.Registry(1, [(1, True)], campaigns, [(ATT_DAY, 4, 1, 1, 1, 3, US, 1, 0, 3)])


def _row(identity: int, campaign: int) -> tuple[int | bytes, ...]:
    sender, recipient = 12_025_550_000 + campaign, 13_035_550_100
    return (identity, 1, campaign, sender, recipient, 3, 1, 1, 1, 1, 0, 1, 0, 0, NOW_US, NOW_US + 3600 * US, 0, b"")


def _scheduler() -> _core.Scheduler:
    scheduler = _core.Scheduler({"held_messages_max": 100}, _registry(), 0)
    scheduler.set_days([(ATT_DAY, DAY, NOW_US + 86_400 * US)])
    return scheduler


def test_a_node_alone_owns_every_shard() -> None:
    scheduler = _scheduler()
    assert scheduler.shards == list(range(_core.SHARDS))
    assert scheduler.load([_row(1, 10), _row(1, 10)], NOW_US) == (1, 0)
    dispatch, *_ = scheduler.pop(NOW_US, 0, 10)
    assert dispatch.shards() == [(10, 0)]


def test_only_what_is_owned_is_taken_in_and_each_attempt_is_its_epochs() -> None:
    scheduler = _scheduler()
    assert scheduler.load([_row(1, 10), _row(2, 11)], NOW_US) == (2, 0)
    assert scheduler.disown(range(_core.SHARDS)) == [1, 2]
    assert scheduler.load([_row(1, 10)], NOW_US) == (0, 1)
    assert not scheduler.put_away(10, 3, 1, 1)
    scheduler.own(11, 7, 0)
    scheduler.own(10, 3, 0)
    assert scheduler.put_away(10, 3, 1, 1)
    assert scheduler.read_back([_row(1, 10), _row(9, 12)], 10, 3, 2, NOW_US) == 1
    assert scheduler.load([_row(2, 11), _row(3, CAMPAIGNS[2])], NOW_US) == (2, 0)
    dispatch, *_ = scheduler.pop(NOW_US, 0, 10)
    assert dispatch.shards() == [(10, 3), (11, 7)]
    assert sorted(dispatch.epochs()) == [(1, 3), (2, 7), (3, 7)]
    assert scheduler.disown([11]) == []
    assert scheduler.outstanding == 3
    assert scheduler.foreign_ended([1, 2, 3]) == 2
    assert scheduler.outstanding == 1
    assert scheduler.shards == [10]


@pytest.mark.parametrize("shard", [_core.SHARDS, 1_000_000])
def test_what_is_no_shard_is_refused(shard: int) -> None:
    scheduler = _scheduler()
    with pytest.raises(ValueError, match="no shard"):
        scheduler.own(shard, 1, 0)
    with pytest.raises(ValueError, match="no shard"):
        scheduler.disown([shard])


def test_a_full_shared_ledger_takes_its_messages_out_of_the_batch() -> None:
    scheduler = _scheduler()
    scheduler.load([_row(1, 10), _row(2, 11)], NOW_US)
    dispatch, *_ = scheduler.pop(NOW_US, 0, 10)
    assert scheduler.ledger_deltas(dispatch) == [(ATT_DAY, DAY, 2, 3)]
    # The store says that others have reserved two.
    assert dispatch.drop_charging(ATT_DAY, DAY, 2) == []
    assert sorted(dispatch.drop_charging(ATT_DAY, DAY, 3)) == [1, 2]
    assert scheduler.ledger_deltas(dispatch) == []
    scheduler.ledgers_seen([(ATT_DAY, DAY, 0, 2)])
    scheduler.dropped([1, 2])
    assert scheduler.load([_row(1, 10), _row(2, 11)], NOW_US) == (2, 0)
    scheduler.ledgers_seen([(ATT_DAY, DAY, 0, 2)])
    dispatch, *_ = scheduler.pop(NOW_US, 0, 10)
    assert scheduler.ledger_deltas(dispatch) == [(ATT_DAY, DAY, 1, 3)]
    scheduler.reserved(dispatch)
    scheduler.ledgers_seen([(ATT_DAY, DAY, 0, 3)])
    again, *_ = scheduler.pop(NOW_US, 0, 10)
    assert len(again) == 0
    scheduler.deltas_undone([(ATT_DAY, DAY, 1, -1)])
