"""Opt-outs, opt-ins and inbound messages of the MySQL store: coroutines of a transaction.

It keeps nothing in memory, and waits for no barrier. Invariant: whoever changes an opt-out holds its slot alone, and
whoever writes an attempt down holds it shared: so an attempt is written down wholly before an opt-out, or sees it.
That one took effect is said by the owner of the shard that its slot falls to, whichever node took it: attempts of all
nodes are in the store, so the store says when none is open.
"""

from collections.abc import Sequence
from typing import Final

from engine import _core
from engine.stores.mysql import inbox, sql
from engine.stores.mysql.transactions import Transaction
from engine.stores.store import OPT_OUT_KEYWORD, SHARDS, InboxKind, Received

LOG_OPT_OUT: Final = 1
LOG_EFFECTIVE: Final = 2
LOG_OPT_IN: Final = 3
LOG_REPEATED: Final = 4


async def lock(tx: Transaction, pairs: Sequence[tuple[int, int]]) -> None:
    """Hold the slots of these (tenant, recipient) alone, until the end of the transaction."""
    slots = sorted({_core.opt_out_slot(tenant, recipient) for tenant, recipient in pairs})
    for start in range(0, len(slots), sql.IDS_MAX):
        ids = ", ".join(map(str, slots[start : start + sql.IDS_MAX]))
        await tx.rows(sql.SELECT_SLOTS_ALONE.format(ids=ids))


async def insert(
    tx: Transaction, tenant: int, recipient: int, source: int, now_us: int, occurred_us: int, evidence: str
) -> bool:
    """Forbid a recipient whose slot is held; whether that is new. Someone is told to see to it that it takes effect."""
    new = await tx.put(sql.INSERT_OPT_OUT, [(tenant, recipient, source, now_us, evidence)], sql.KEEP_FIRST) == 1
    if new:
        await _log(tx, tenant, recipient, LOG_OPT_OUT, source, now_us, occurred_us, evidence)
        shard = _core.opt_out_slot(tenant, recipient) % SHARDS
        await inbox.put(tx, InboxKind.CONSENT, now_us, [(shard, inbox.packed((tenant, recipient)))])
    return new


async def _log(
    tx: Transaction,
    tenant: int,
    recipient: int,
    action: int,
    source: int,
    now_us: int,
    occurred_us: int,
    evidence: str = "",
) -> None:
    await tx.put(sql.INSERT_CONSENT_LOG, [(tenant, recipient, action, source, now_us, occurred_us, evidence)])


async def add_opt_out(
    tx: Transaction, tenant: int, recipient: int, source: int, now_us: int, evidence: str
) -> tuple[int, int, bool]:
    """Forbid a recipient; returns (source, since, whether it is new). Effective only after the barrier."""
    await lock(tx, [(tenant, recipient)])
    new = await insert(tx, tenant, recipient, source, now_us, now_us, evidence)
    if new:
        tx.tell([(tenant, _core.consent_event("OPT_OUT", recipient, now_us))], now_us)
    [(found, since)] = await tx.rows(sql.SELECT_OPT_OUT, (tenant, recipient))
    return found, since, new


async def mark_effective(tx: Transaction, pairs: Sequence[tuple[int, int]], now_us: int) -> None:
    """Say that from here on nothing to these (tenant, recipient) starts or is on the wire.

    Of an opt-out that was lifted meanwhile, or said so already, nothing is said.
    """
    await lock(tx, pairs)
    for tenant, recipient in pairs:
        if await tx.rows(sql.SELECT_BARRIER_OPEN, (tenant, recipient)):
            await _log(tx, tenant, recipient, LOG_EFFECTIVE, 0, now_us, now_us)
            tx.tell([(tenant, _core.consent_event("OPT_OUT_EFFECTIVE", recipient, now_us))], now_us)


async def remove_opt_out(
    tx: Transaction, tenant: int, recipient: int, source: int, now_us: int, occurred_us: int
) -> bool:
    """Lift an opt-out; a START that happened before the last STOP lifts nothing. False when nothing was lifted."""
    return await _lift(tx, tenant, recipient, source, now_us, occurred_us)


async def _lift(tx: Transaction, tenant: int, recipient: int, source: int, now_us: int, occurred_us: int) -> bool:
    await lock(tx, [(tenant, recipient)])
    if source == OPT_OUT_KEYWORD:
        [(last,)] = await tx.rows(sql.SELECT_LAST_OPT_OUT_OCCURRED, (tenant, recipient))
        if last is not None and occurred_us <= last:
            return False
    if await tx.run(sql.DELETE_OPT_OUT, (tenant, recipient)) == 0:
        return False
    await _log(tx, tenant, recipient, LOG_OPT_IN, source, now_us, occurred_us)
    tx.tell([(tenant, _core.consent_event("OPT_IN", recipient, now_us))], now_us)
    return True


async def store_inbound(
    tx: Transaction, inbound: _core.Inbound, identity: int, provider: int, now_us: int, received: Received
) -> None:
    """Store one inbound message and what its keyword asks for; the slot of a keyword's sender is held."""
    row = (identity, inbound.tenant, inbound.sender, inbound.recipient, now_us, provider, inbound.provider_id)
    await tx.put(sql.INSERT_INBOUND, [(*row, inbound.record)])
    received.inbound += 1
    if inbound.tenant == 0:
        return  # to a number of nobody: kept, told to nobody
    tenant, sender = inbound.tenant, inbound.sender
    tx.tell([(tenant, inbound.event(identity, now_us))], now_us)
    occurred_us = inbound.occurred_us or now_us
    if inbound.keyword == "STOP":
        if await insert(tx, tenant, sender, OPT_OUT_KEYWORD, now_us, occurred_us, inbound.provider_id):
            tx.tell([(tenant, _core.consent_event("OPT_OUT", sender, now_us))], now_us)
            received.consents.append((tenant, sender, True))
        else:
            # Already out: remember the later STOP, so that a START from before it lifts nothing.
            await _log(tx, tenant, sender, LOG_REPEATED, OPT_OUT_KEYWORD, now_us, occurred_us)
    elif inbound.keyword == "START" and await _lift(tx, tenant, sender, OPT_OUT_KEYWORD, now_us, occurred_us):
        received.consents.append((tenant, sender, False))
