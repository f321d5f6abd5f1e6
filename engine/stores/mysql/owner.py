"""Who this process is among those that share the store: its number, and which shards it sends for.

It sends nothing and decides nothing about messages. A node has a number, which the ids that it gives carry, for a time
by the server's clock that a thread renews (`Heart`); and each shard has one owner at a time, as long as that one's
number is its own. What a lease cannot promise to a process that was frozen, the epoch does, which rises with each owner
of a shard: what an owner writes reads its leases under a shared lock, and whoever takes one waits for it.

A node holds its fair share at most: of 64 shards as many as there are for each node that sends, rounded up. It takes
what is free up to that, and is told what it has above it (`above_share`), to give away in its own time.

Invariants: a number is given again at the earliest `NUMBER_REST_S` after its lease ran out, or when its holder gave it
back or is dead for sure; a shard is taken when its owner's number ran out, when it was given back, or is held by a
former life of this very node that is dead for sure; every taking has an epoch above all before, of whatever shard.
`NOW(6)` is the beginning of a statement, so a wait for a row only ever makes a lease shorter, or its taking later.
"""

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from engine.errors import StoreLocked
from engine.stores.mysql import sql
from engine.stores.mysql.address import Address
from engine.stores.mysql.faults import DUPLICATE, code_of
from engine.stores.mysql.pool import Limits, Link, Pool, connect
from engine.stores.mysql.sleepers import end_sleepers
from engine.stores.mysql.transactions import Transaction
from engine.stores.store import Pulse

US: Final = 1_000_000
HOST_CHARACTERS_MAX: Final = 50
SHARDS: Final = 64
NODE_MAX: Final = 1023
# A node that lost its number hears of it within a lease; what it had handed in by then ends within this.
NUMBER_REST_S: Final = 60.0
# How often a number of one's own is asked for while its former holder's lease runs.
ASK_EVERY_S: Final = 0.25
# Whoever changes the schema is waited for so long.
SCHEMA_S: Final = 600.0

Rows = Callable[..., Awaitable[list[Any]]]

_log = structlog.get_logger("longwave.store")


def lock_name(database: str) -> str:
    """Of a database; servers take 64 characters."""
    return "longwave-" + hashlib.sha256(database.encode()).hexdigest()[:32]


def own_name() -> str:
    """This process, for people."""
    return f"{socket.gethostname()[:HOST_CHARACTERS_MAX]} pid {os.getpid()}"


async def is_served(link: Link) -> bool:
    """Whether a node runs on the store. Raises the driver's errors."""
    return bool(await link.rows(sql.SELECT_NODES))


@contextlib.asynccontextmanager
async def alone(address: Address, limits: Limits) -> AsyncIterator[None]:
    """Change the schema while nobody else does. Raises StoreLocked after `SCHEMA_S`, and what connecting raises."""
    link = Link(await connect(address, limits), SCHEMA_S + limits.statement_s)
    try:
        [(got,)] = await link.rows("SELECT GET_LOCK(%s, %s)", (lock_name(address.database), SCHEMA_S))
        if got != 1:
            raise StoreLocked(f"{address.shown}: another longwave process has been changing its schema for too long")
        yield
    finally:
        await link.end()


@dataclass(slots=True)
class Me:
    """This process. Written by the loop, read by the thread of the heart."""

    lease_us: int
    roles: str
    node: int = 0
    incarnation: int = field(default_factory=lambda: secrets.randbits(63))
    epoch: int = 0
    """The newest under which it took shards, 0 before."""
    holds: Mapping[int, int] = field(default_factory=dict)
    """Its shards, each with the epoch of its taking; replaced, never changed."""
    ready: Mapping[int, int] = field(default_factory=dict)
    """Of these, those of which memory has taken over all that waits: what it accepts needs no way through the inbox."""
    name: str = field(init=False)

    def __post_init__(self) -> None:
        """Name it."""
        self.name = f"{own_name()} {_life()}-{self.incarnation:x}"


def _life() -> str:
    """Names this process among all that this machine ever ran: its boot, the space of its number, when it began."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        space = Path("/proc/self/ns/pid").stat().st_ino
        return f"{boot}-{space:x}-{_began(os.getpid())}"
    except OSError:
        return "-"


def _began(pid: int) -> str:
    """When a process began, in the kernel's ticks. Raises OSError when there is none."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]


def is_dead(owner: str) -> bool:
    """Whether the process of this name surely runs no more: it ran here, under a number that nobody or another has."""
    words = owner.rpartition(" ")
    life = words[2].rpartition("-")[0]
    pid = words[0].rpartition(" ")[2]
    here, _, began = life.rpartition("-")
    if here in {"", "-"} or here != _life().rpartition("-")[0] or not pid.isdigit():
        return False
    try:
        return _began(int(pid)) != began
    except OSError:
        return True


@contextlib.asynccontextmanager
async def _transaction(pool: Pool) -> AsyncIterator[Link]:
    async with pool.link() as link:
        await link.run("BEGIN")
        link.in_transaction = True
        yield link
        await link.run("COMMIT")
        link.in_transaction = False


async def take_number(pool: Pool, me: Me, number: int | None) -> None:
    """Take this number, or the lowest free one from 1 on.

    Raises StoreLocked when another process has it, or all are taken; and the driver's errors.
    """
    until_s, seen_us = time.monotonic() + 2 * me.lease_us / US, 0
    while True:
        took = False
        try:
            async with _transaction(pool) as link:
                taken = {row[0]: row[1:] for row in await link.rows(sql.SELECT_NODES_ALONE)}
                [(now_us,)] = await link.rows(sql.SELECT_NOW)
                chosen = _lowest_free(taken, now_us) if number is None else number
                owner, expires_us = taken.get(chosen, ("", 0))
                if number is None or expires_us <= now_us or is_dead(owner):
                    values = (chosen, me.name, me.incarnation, me.lease_us, me.roles)
                    await link.run(sql.TAKE_NODE, values)
                    took = True
        except Exception as error:
            if code_of(error) != DUPLICATE:
                raise
            continue  # another one took it just now
        if took:
            me.node = chosen
            return
        if seen_us not in {0, expires_us} or time.monotonic() > until_s:
            raise StoreLocked(f"node number {number} is in use by {owner}: give each process another LONGWAVE_NODE")
        seen_us = expires_us
        await asyncio.sleep(ASK_EVERY_S)


def _lowest_free(taken: dict[int, tuple[str, int]], now_us: int) -> int:
    rested_us = now_us - int(NUMBER_REST_S * US)
    for number in range(1, NODE_MAX + 1):
        if number not in taken or taken[number][1] <= rested_us:
            return number
    raise StoreLocked(f"all {NODE_MAX} numbers of nodes are in use")


async def give_back(pool: Pool, me: Me) -> None:
    """The leases and the number are free at once. Raises the driver's errors."""
    async with pool.link() as link:
        await give(link, me, me.holds)
        await link.run(sql.RELEASE_NODE, (me.node, me.incarnation))


async def give(link: Link, me: Me, shards: Iterable[int]) -> None:
    """These shards are free when what this process is writing of them is stored. Raises the driver's errors."""
    given = sorted(set(shards) & me.holds.keys())
    me.holds = {shard: epoch for shard, epoch in me.holds.items() if shard not in given}
    me.ready = {shard: epoch for shard, epoch in me.ready.items() if shard not in given}
    if given:
        await link.run(sql.RELEASE_LEASES.format(shards=_listed(given)), (me.name,))


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers)) or "NULL"


async def _share(rows: Rows, me: Me) -> int:
    """Shards that this node may hold: its part, rounded up, while all others that send are alive."""
    [(others,)] = await rows(sql.COUNT_SENDERS, (me.node,))
    return -(-SHARDS // (1 + int(others)))


async def above_share(pool: Pool, me: Me) -> int:
    """How many shards this process holds above its share. Raises the driver's errors."""
    async with pool.asking() as link:
        return max(0, len(me.holds) - await _share(link.rows, me))


async def take_leases(tx: Transaction, me: Me, *, own_number: bool, all_free: bool) -> dict[int, int] | None:
    """Take free shards up to this node's share, or `all_free`; (shard → epoch), higher than any before. None without.

    It waits for what the owner before is writing. The caller notes them when the transaction is committed.
    """
    share = SHARDS if all_free else await _share(tx.rows, me)
    wanted = share - len(me.holds)
    # Without locks first: everybody asks often, and must not hold up an owner.
    rows = await tx.rows(sql.SELECT_LEASE_HOLDERS)
    chosen = _free(rows, await _now_us(tx), me, own_number=own_number)[:wanted]
    if wanted <= 0 or not chosen:
        return None
    await tx.rows(sql.SELECT_LEASES_ALONE.format(shards=_listed(chosen)))
    # Whoever renews its number from here on waits, and sees that it lost them.
    holders = {node for shard, _, node, _ in rows if shard in chosen}
    await tx.rows(sql.SELECT_NODES_SHARED.format(ids=_listed(sorted(holders))))
    rows = [row for row in await tx.rows(sql.SELECT_LEASE_HOLDERS) if row[0] in chosen]
    shards = _free(rows, await _now_us(tx), me, own_number=own_number)
    if not shards:
        return None
    await tx.run(sql.RAISE_EPOCH)
    [(epoch,)] = await tx.rows(sql.SELECT_EPOCH)
    await tx.run(sql.TAKE_LEASES.format(shards=_listed(shards)), (me.name, me.node, epoch))
    if len(shards) == SHARDS:
        await tx.run(sql.SETTLE_LEDGERS)
    return dict.fromkeys(shards, int(epoch))


async def _now_us(tx: Transaction) -> int:
    [(now_us,)] = await tx.rows(sql.SELECT_NOW)
    return int(now_us)


def _free(rows: Iterable[tuple[int, str, int, int]], now_us: int, me: Me, *, own_number: bool) -> list[int]:
    """Shards that nobody holds, of what this process does not."""
    dead = {owner: own_number and node == me.node and is_dead(owner) for _, owner, node, _ in rows}
    return [
        shard
        for shard, owner, _, expires_us in rows
        if shard not in me.holds and (expires_us <= now_us or owner == me.name or dead[owner])
    ]


async def end_last_owners(pool: Pool, me: Me) -> None:
    """If leases ran out, end the connections of who had them: a transaction of theirs may hold their rows.

    Raises the driver's errors.
    """
    async with pool.link() as link:
        rows = await link.rows(sql.SELECT_LEASE_HOLDERS)
        [(now_us,)] = await link.rows(sql.SELECT_NOW)
    if any(owner not in {"", me.name} and expires_us <= now_us for _, owner, _, expires_us in rows):
        await end_sleepers(pool, me.lease_us / US)


async def last_id(tx: Transaction) -> int:
    """The highest id in use; 0 in an empty store."""
    [(identity,)] = await tx.rows(sql.SELECT_LAST_ID)
    return int(identity)


class Heart:
    """Renews the number, and with it all leases, from a thread with a loop of its own, on a connection of its own."""

    def __init__(self, address: Address, limits: Limits, me: Me) -> None:
        """Open nothing yet."""
        self._address = address
        self._limits = limits
        self._me = me
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link: Link | None = None

    def beat(self) -> Pulse:
        """See `engine.stores.store.Heart`."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(self.ask())

    async def ask(self) -> Pulse:
        """What `beat` does, on whatever loop its connection belongs to."""
        me, holds = self._me, self._me.holds
        shards = _listed(holds)
        try:
            if self._link is None:
                self._link = Link(await connect(self._address, self._limits), self._limits.connect_s)
            kept = await self._link.run(sql.RENEW_NODE, (me.lease_us, me.node, me.incarnation)) == 1
            found = dict(await self._link.rows(sql.SELECT_LEASES_HELD.format(shards=shards)))
        except BaseException:
            if self._link is not None:
                self._link.close()
                self._link = None
            raise
        # What was given away meanwhile may have its next owner.
        lost = [shard for shard, epoch in holds.items() if shard in me.holds and found.get(shard) != epoch]
        if not lost:
            return Pulse(node=kept, held=True)
        return Pulse(node=kept, held=False, epoch=max((found[shard] for shard in lost if shard in found), default=None))

    def close(self) -> None:
        """See `engine.stores.store.Heart`."""
        if self._loop is None:
            return
        if self._link is not None:
            # In words: with TLS a connection takes a few turns to end, and this loop has none left afterwards.
            self._loop.run_until_complete(self._link.end())
            self._link = None
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
        self._loop = None
