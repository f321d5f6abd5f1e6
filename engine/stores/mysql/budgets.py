"""Rates that are wider than a shard: rows of `budgets`, from which nodes take tokens for a short time.

What a bucket gives is the core's to say (`rust_core/src/budget.rs`).

Invariants: whoever takes holds the rows alone until its COMMIT, and reads the server's clock behind that lock, so time
never goes back in a bucket; a row that was not there begins empty; what was taken by somebody who never heard of it is
lost, never given twice.
"""

from collections.abc import Callable, Sequence

from engine import _core
from engine.stores.mysql import sql
from engine.stores.mysql.pool import Link
from engine.stores.store import NEVER_US, Lease


async def server_now_us(link: Link) -> int:
    """The server's clock."""
    [(now_us,)] = await link.rows(sql.SELECT_NOW)
    return int(now_us)


async def lease(
    link: Link, asks: Sequence[tuple[int, int, int]], registry: _core.Registry, mono_us: Callable[[], int]
) -> list[Lease]:
    """Take (quota, tokens, least) in the transaction that is open; raises the driver's errors.

    `mono_us` is the holder's clock: it is read behind the lock, so that no wait for others shortens a block.
    """
    asked = sql.SELECT_BUDGETS_ALONE.format(ids=", ".join(str(quota) for quota, *_ in asks))
    rows = {row[0]: row[1:] for row in await link.rows(asked)}
    missing = [(quota, 0, 0, 0, 0, 0, 0) for quota, *_ in asks if quota not in rows]
    if missing:
        for statement, _ in _core.mysql_rows(sql.INSERT_BUDGETS, missing, "", sql.BYTES_MAX):
            await link.run(statement)
        rows = {row[0]: row[1:] for row in await link.rows(asked)}
    from_us = mono_us()
    now_us = await server_now_us(link)
    answers = registry.lease_budgets([(quota, rows.get(quota), tokens, least) for quota, tokens, least in asks], now_us)
    given, changed = [], []
    for (quota, *_), answer in zip(asks, answers, strict=True):
        if answer is None:
            continue
        tokens, again_us, block_us, row = answer
        given.append(Lease(quota, tokens, from_us + block_us, from_us + min(max(0, again_us - now_us), NEVER_US // 4)))
        changed.append((quota, *row))
    for statement, _ in _core.mysql_rows(sql.REPLACE_BUDGETS, changed, "", sql.BYTES_MAX) if changed else []:
        await link.run(statement)
    return given
