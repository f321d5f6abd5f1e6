"""What an operator does with the look-ups kept in Redis: fill them for a campaign, or clear them.

It waits for Redis as long as that takes and raises what the client raises: nodes never do it. Invariants: keys are
found by SCAN, never by KEYS, and removed by UNLINK, `PIECE` at a time; no message that may still move is kept.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from engine import _core
from engine.corridor import registry_of
from engine.errors import Refused, Verdict
from engine.finals import KEPT_S, UNCHANGING, answer_for_good
from engine.finals_seal import EVERY, Seal
from engine.hints import ENTRIES_MAX, FORGET, STREAM
from engine.look_up import ROWS_SCANNED_MAX
from engine.registry.snapshot import RegistryRows, snapshot
from engine.registry.tenants import find_tenant
from engine.stores.store import ID_MAX, Store, Stretch

# Keys asked for, removed or written at once: some 60 KiB of keys, or half a MiB of values.
PIECE: Final = 500


async def clear(client: Any, seals: Sequence[Seal], *, tenant: int | None = None, message: int | None = None) -> int:
    """Remove what is kept of a tenant, of a message, or everything; returns how many there were.

    Then nodes are told to drop what they hold in memory; one that does not hear it drops it within `KEPT_S`.
    """
    patterns = [EVERY]
    if message is not None:
        patterns = [seal.names_of_message(message) for seal in seals]
    elif tenant is not None:
        patterns = [seal.names_of_tenant(tenant) for seal in seals]
    removed = 0
    for pattern in patterns:
        async for names in _pieces(client, pattern):
            removed += await _unlink(client, names)
    await client.xadd(STREAM, {b"by": b"operator", FORGET: b"1"}, maxlen=ENTRIES_MAX, approximate=True)
    return removed


async def _pieces(client: Any, pattern: str) -> AsyncIterator[list[bytes]]:
    """Names in pieces; of a Cluster, those of every primary."""
    piece: list[bytes] = []
    async for name in client.scan_iter(match=pattern, count=PIECE):
        piece.append(name)
        if len(piece) >= PIECE:
            yield piece
            piece = []
    if piece:
        yield piece


async def _unlink(client: Any, names: Sequence[bytes]) -> int:
    """One command a name: in a Cluster each is in a slot of its own. SCAN may name one twice, which counts once."""
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.execute_command("UNLINK", name)
    return sum(await pipeline.execute())


async def tenant_key(store: Store, tenant_id: str) -> int:
    """The key of a tenant. Raises Refused (NOT_FOUND)."""

    def find(control: sa.Connection) -> int:
        return find_tenant(control, tenant_id).key

    return await store.run_control(find)


def message_id(text: str) -> int | None:
    """The id in a message's name, with or without `messages/`; None when there is none."""
    return _core.parse_short_id(text.removeprefix("messages/"))


def _campaign_of(rows: RegistryRows, campaign_id: str, tenant_id: str) -> tuple[int, int]:
    """(key of the tenant, key of the campaign). Raises Refused (NOT_FOUND), also where several have one of this id."""
    ids = dict(rows.tenant_ids)
    found = [
        (tenant, key)
        for key, tenant, _, name, *_ in rows.campaigns
        if name == campaign_id and (not tenant_id or ids[tenant] == tenant_id)
    ]
    if not found:
        raise Refused(Verdict.NOT_FOUND, "there is no such campaign")
    if len(found) > 1:
        raise Refused(Verdict.NOT_FOUND, "several tenants have a campaign of this id: name one by --tenant")
    return found[0]


async def warm(
    client: Any,
    seal: Seal,
    store: Store,
    *,
    provider: str,
    campaign: str,
    tenant: str,
    messages_max: int,
    now_us: Callable[[], int],
) -> int:
    """Keep the newest messages of a campaign that never change again; returns how many.

    `tenant` is needed only where several have a campaign of this id. Raises Refused (NOT_FOUND).
    """
    rows = await store.run_control(snapshot)
    registry = registry_of(rows)
    owner, key = _campaign_of(rows, campaign, tenant)
    before, kept = ID_MAX, 0
    while kept < messages_max:
        page = min(PIECE, messages_max - kept)
        stretch = Stretch(before, 0, key, tuple(sorted(UNCHANGING)), 0, page, ROWS_SCANNED_MAX)
        read_us = now_us()
        views, floor = await store.views(owner, stretch)
        pipeline = client.pipeline(transaction=False)
        for row in views:
            answer = answer_for_good(registry, row, provider)
            if answer is not None:
                value = seal.close(owner, row[0], answer, read_us)
                pipeline.set(seal.name(owner, row[0]), value, ex=KEPT_S)
        if views:
            kept += sum(map(bool, await pipeline.execute()))
        if len(views) == page:
            before = views[-1][0]
        elif floor:
            before = floor
        else:
            break
    return kept
