"""The embedded store's reads: functions of a connection that cannot write.

It changes nothing. Rows of another tenant are never read, not even to be thrown away.
"""

from collections.abc import Sequence
from typing import Final

import orjson

from engine.stores import sql
from engine.stores.connection import Connection
from engine.stores.store import ID_MAX, SHARDS, Row, Shards, Stretch

_OF_SHARDS: Final = " AND campaign % 64 IN ({shards})"


def _of(statement: str, shards: Shards) -> str:
    of = "" if shards is None else _OF_SHARDS.format(shards=", ".join(map(str, shards)))
    return statement.format(of=of)


def in_state(connection: Connection, state: int, shards: Shards) -> list[int]:
    """Ids of all messages in a state that is neither QUEUED nor terminal."""
    return [row[0] for row in connection.execute(_of(sql.SELECT_IN_STATE, shards), (state,))]


def key_holders(connection: Connection, shards: Shards) -> list[Row]:
    """Messages with an ordering key whose outcome is open."""
    return connection.execute(_of(sql.SELECT_KEY_HOLDERS, shards)).fetchall()


def waiting_bounds(connection: Connection, streams: Sequence[int], shards: Shards) -> list[tuple[int, int, int, int]]:
    """(campaign, stream, first id, last id) of all that is QUEUED, for each stream of `rust_core/src/spill.rs`."""
    bounds = []
    for (campaign,) in connection.execute(sql.SELECT_CAMPAIGN_KEYS).fetchall():
        if shards is not None and campaign % SHARDS not in shards:
            continue
        for stream in streams:
            first, last = connection.execute(sql.SELECT_WAITING_BOUNDS, (campaign, stream)).fetchone()
            if first is not None:
                bounds.append((campaign, stream, first, last))
    return bounds


def waiting_piece(
    connection: Connection, campaign: int, stream: int, from_id: int, upto_id: int, rows_max: int
) -> list[Row]:
    """The first waiting messages of a stream between two ids, with their bodies, as `SELECT_HELD` gives them."""
    return connection.execute(sql.SELECT_WAITING_PIECE, (campaign, stream, from_id, upto_id, rows_max)).fetchall()


def waiting_expired(
    connection: Connection, campaign: int, stream: int, after_id: int, now_us: int, rows_max: int
) -> tuple[list[int], int]:
    """(ids whose validity ended among the next waiting messages of a stream, where to go on: 0 from the beginning)."""
    rows = connection.execute(sql.SELECT_WAITING_EXPIRY, (campaign, stream, after_id, rows_max)).fetchall()
    return [row[0] for row in rows if row[1] <= now_us], rows[-1][0] if len(rows) == rows_max else 0


def due(connection: Connection, states: Sequence[int], now_us: int, rows_max: int, shards: Shards) -> list[int]:
    """Ids of messages whose timer ran out, earliest first within a state."""
    asked = _of(sql.SELECT_DUE, shards)
    return [row[0] for state in states for row in connection.execute(asked, (state, now_us, rows_max)).fetchall()]


def latest_due(
    connection: Connection, state: int, before: tuple[int, int], rows_max: int, shards: Shards
) -> list[tuple[int, int]]:
    """(timer, id) of messages in a state, those with the latest timer first, from behind `before` on."""
    return connection.execute(_of(sql.SELECT_LATEST_DUE, shards), (state, *before, rows_max)).fetchall()


def started(
    connection: Connection,
    tenant: int,
    after: int,
    campaigns: Sequence[int],
    from_us: int,
    carrier: int,
    unit: int,
    rows_max: int,
) -> tuple[int, int | None]:
    """(what attempts since a time have spent, of the tenant's next messages; where to go on, None at the end)."""
    end = connection.execute(sql.SELECT_PIECE_END, (tenant, after, rows_max - 1)).fetchone()
    upto = ID_MAX if end is None else end[0]
    keys = orjson.dumps(list(campaigns)).decode()
    found = connection.execute(sql.SELECT_STARTED, (tenant, after, upto, keys, from_us, carrier, unit)).fetchone()
    spent: int = found[0]
    return spent, None if end is None else upto


def facts(connection: Connection, names: Sequence[str]) -> list[int | None]:
    """Numbers remembered under these names."""
    found = [connection.execute(sql.SELECT_FACT, (name,)).fetchone() for name in names]
    return [None if row is None else row[0] for row in found]


def views(connection: Connection, tenant: int, stretch: Stretch) -> tuple[list[Row], int]:
    """(a tenant's messages, the id down to which all were looked at: 0 when there are none behind it)."""
    # The stretch first: its lowest id bounds the page, whatever the filters leave of it.
    scanned = connection.execute(
        sql.SELECT_STRETCH, (tenant, stretch.before_id, stretch.lowest_id, stretch.scanned_max)
    ).fetchone()
    floor, count = scanned[0] or stretch.lowest_id, scanned[1]
    filters, values = "", []
    if stretch.campaign:
        filters += " AND m.campaign = ?"
        values.append(stretch.campaign)
    if stretch.states:
        filters += f" AND m.state IN ({', '.join('?' * len(stretch.states))})"
        values += stretch.states
    if stretch.recipient:
        filters += " AND m.recipient = ?"
        values.append(stretch.recipient)
    statement = sql.SELECT_VIEWS_BEFORE.format(filters=filters)
    rows = connection.execute(statement, (tenant, stretch.before_id, floor, *values, stretch.rows_max)).fetchall()
    return rows, floor if count == stretch.scanned_max else 0


def events(connection: Connection, tenant: int, after_position: int, rows_max: int) -> tuple[list[bytes], int]:
    """A tenant's log rows behind a position, and the position reached (of the whole log when nothing is left)."""
    # Newest first: rows committed between the two reads are left for the next call, never skipped.
    _, newest = event_bounds(connection)
    rows = connection.execute(sql.SELECT_EVENTS_AFTER, (tenant, after_position, newest, rows_max)).fetchall()
    reached = rows[-1][0] if len(rows) == rows_max else max(newest, after_position)
    return [row[1] for row in rows], reached


def event_bounds(connection: Connection) -> tuple[int, int]:
    """Oldest and newest position of the log; 0, 0 when nothing was ever logged."""
    oldest, newest = connection.execute(sql.SELECT_EVENT_BOUNDS).fetchone()
    return oldest, newest
