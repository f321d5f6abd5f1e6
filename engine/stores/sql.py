"""The corridor's statements for SQLite, one constant each; column orders are those of the core's rows.

It runs nothing. A guarded write names its guard in the WHERE clause: `seq` is the optimistic lock of a message's row.
A statement over VALUES is written here for one row; `engine/stores/sqlite.py` repeats the row, or puts parameters in
place of its columns. Parameters that hold for all rows are numbered, from 1 on.
"""

from typing import Final

# What came before stays, and is seen by the number of rows: duplicates are retries, and cost no savepoint. The only
# conflict there can be is that of the key, so nothing needs to be undone row by row (OR FAIL keeps no copy of the
# pages that random ids touch).
INSERT_REQUEST_ID: Final = """
INSERT OR FAIL INTO request_ids (tenant, request_id, id, content_hash) VALUES (?, ?, ?, ?)
ON CONFLICT (tenant, request_id) DO NOTHING
"""

# The parameter is a JSON array of [tenant, request_id].
SELECT_REQUEST_IDS: Final = """
SELECT r.tenant, r.request_id, r.id, r.content_hash, m.segments, m.encoding
FROM json_each(?1) AS asked
JOIN request_ids AS r ON r.tenant = asked.value ->> 0 AND r.request_id = asked.value ->> 1
JOIN messages AS m ON m.id = r.id
"""

INSERT_MESSAGE: Final = """
INSERT INTO messages (id, tenant, campaign, sender, recipient, class, kind, encoding, segments, state, reason, seq,
  attempt, generation, counted, flags, due_us, accept_us, expires_us, updated_us, history)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

# Takes back rows that an INSERT of this transaction made: no other can be meant.
DELETE_MESSAGES: Final = "DELETE FROM messages WHERE id IN (SELECT value FROM json_each(?1))"

INSERT_BODY: Final = "INSERT INTO bodies (id, record) VALUES (?, ?)"

INSERT_EVENTS: Final = "INSERT INTO events (tenant, at_us, events) VALUES (?, ?, ?)"

# The guard of an attempt: queued, unchanged since it was popped, still valid, not opted out, campaign active and still
# owner of the number. What fails it never reaches the wire. The columns of `asked`: id, seq, recipe, history.
UPDATE_INTENT: Final = """
UPDATE messages SET state = 2, reason = 3, code = '', seq = messages.seq + 1, attempt = min(attempt + 1, 65535),
  started_us = ?1, epoch = ?2, provider = ?3, due_us = ?4, updated_us = ?1,
  recipe = asked.column3, history = CAST(history || asked.column4 AS BLOB)
FROM (VALUES (?, ?, ?, ?)) AS asked
WHERE messages.id = asked.column1 AND messages.seq = asked.column2 AND state = 1 AND expires_us > ?1
  AND NOT EXISTS (SELECT 1 FROM opt_outs AS o WHERE o.tenant = messages.tenant AND o.recipient = messages.recipient)
  AND EXISTS (SELECT 1 FROM campaigns AS c WHERE c.key = messages.campaign AND c.state = 1)
  AND EXISTS (SELECT 1 FROM numbers AS n WHERE n.number = messages.sender AND n.campaign = messages.campaign)
"""

SELECT_INTENDED: Final = """
SELECT m.id FROM json_each(?1) AS asked JOIN messages AS m ON m.id = asked.value
WHERE m.state = 2 AND m.started_us = ?2 AND m.epoch = ?3
"""

# Why an intent was not granted: 1 expired, 2 opted out, 3 stopped; 0: paused, or no longer the row that was popped.
SELECT_CLOSED_GATES: Final = """
SELECT m.id, CASE
  WHEN m.state <> 1 THEN 0
  WHEN m.expires_us <= ?2 THEN 1
  WHEN EXISTS (SELECT 1 FROM opt_outs AS o WHERE o.tenant = m.tenant AND o.recipient = m.recipient) THEN 2
  WHEN EXISTS (SELECT 1 FROM campaigns AS c WHERE c.key = m.campaign AND c.state = 2) THEN 0
  WHEN NOT EXISTS (SELECT 1 FROM campaigns AS c WHERE c.key = m.campaign AND c.state = 1) THEN 3
  WHEN NOT EXISTS (SELECT 1 FROM numbers AS n WHERE n.number = m.sender AND n.campaign = m.campaign) THEN 3
  ELSE 0 END
FROM json_each(?1) AS asked JOIN messages AS m ON m.id = asked.value
"""

# One JSON array of all rows, which the core reads: row by row, the driver would let go of the interpreter at each.
SELECT_ROWS: Final = """
SELECT json_group_array(json_array(
  m.id, m.tenant, m.campaign, m.recipient, m.class, m.segments, m.state, m.reason, m.code, m.seq, m.attempt,
  m.generation, m.counted, m.flags, m.due_us, m.accept_us, m.expires_us, m.updated_us, m.started_us, m.provider,
  m.provider_id, m.carrier, m.crashes,
  EXISTS (SELECT 1 FROM opt_outs AS o WHERE o.tenant = m.tenant AND o.recipient = m.recipient)))
FROM json_each(?1) AS asked JOIN messages AS m ON m.id = asked.value
"""

# The columns of `changed`: id, seq as read, state, reason, code, seq, counted, flags, due_us, generation, updated_us,
# provider_id, carrier, crashes, history.
UPDATE_MESSAGE: Final = """
UPDATE messages SET state = changed.column3, reason = changed.column4, code = changed.column5, seq = changed.column6,
  counted = changed.column7, flags = changed.column8, due_us = changed.column9,
  recipe = CASE WHEN generation = changed.column10 THEN recipe ELSE 0 END, generation = changed.column10,
  updated_us = changed.column11, provider_id = changed.column12, carrier = changed.column13,
  crashes = changed.column14, history = CAST(history || changed.column15 AS BLOB)
FROM (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)) AS changed
WHERE messages.id = changed.column1 AND messages.seq = changed.column2
"""

UPDATE_QUIET: Final = """
UPDATE messages SET flags = ?, due_us = ?, carrier = ?, crashes = ?, provider_id = ? WHERE id = ? AND seq = ?
"""

_HELD: Final = """
SELECT m.id, m.tenant, m.campaign, m.sender, m.recipient, m.class, m.kind, m.encoding, m.segments, m.seq, m.attempt,
  m.generation, m.counted, m.flags, m.due_us, m.expires_us, m.recipe, b.record
"""

SELECT_HELD: Final = _HELD + (
    "FROM json_each(?1) AS asked JOIN messages AS m ON m.id = asked.value JOIN bodies AS b ON b.id = m.id "
    "WHERE m.state = 1"
)

# A query may use a partial index only when the index's own condition stands in it: hence `state > 1 AND state < 16`
# wherever a state behind QUEUED is looked for.
# `{of}` is empty, or names shards.
SELECT_IN_STATE: Final = "SELECT id FROM messages WHERE state = ?1 AND state > 1 AND state < 16{of} ORDER BY id"

# The stream of a waiting message (rust_core/src/spill.rs): 0 with an ordering key, 4 for a later time, else its class;
# the very expression of the index messages_waiting.
_STREAM: Final = "iif(flags & 1, 0, iif(flags & 32, 4, class))"

_IN_STREAM: Final = f"FROM messages WHERE state = 1 AND campaign = ?1 AND {_STREAM} = ?2"

# One look at each end of the index; asked for together, SQLite would read all between.
SELECT_WAITING_BOUNDS: Final = f"""
SELECT (SELECT id {_IN_STREAM} ORDER BY id LIMIT 1), (SELECT id {_IN_STREAM} ORDER BY id DESC LIMIT 1)
"""

SELECT_CAMPAIGN_KEYS: Final = "SELECT key FROM campaigns ORDER BY key"

SELECT_WAITING_PIECE: Final = (
    _HELD
    + f"""FROM messages AS m JOIN bodies AS b ON b.id = m.id
WHERE m.state = 1 AND m.campaign = ?1 AND {_STREAM} = ?2 AND m.id >= ?3 AND m.id <= ?4 ORDER BY m.id LIMIT ?5
"""
)

SELECT_WAITING_EXPIRY: Final = f"SELECT id, expires_us {_IN_STREAM} AND id > ?3 ORDER BY id LIMIT ?4"

# The latest timers of a state, from a row of the page before on.
SELECT_LATEST_DUE: Final = """
SELECT due_us, id FROM messages
WHERE state = ?1 AND state > 1 AND state < 16 AND due_us <= ?2 AND (due_us < ?2 OR id < ?3){of}
ORDER BY due_us DESC, id DESC LIMIT ?4
"""

# Only a look-up is brought forward, and only one that is not earlier by now.
UPDATE_LOOKUP_DUE: Final = """
UPDATE messages SET due_us = ?1 WHERE id = ?2 AND state IN (3, 4) AND due_us > ?1
"""

# Messages with an ordering key whose outcome is open: what follows them waits.
SELECT_KEY_HOLDERS: Final = """
SELECT m.id, m.tenant, m.campaign, b.record FROM messages AS m JOIN bodies AS b ON b.id = m.id
WHERE m.state IN (2, 5) AND m.state > 1 AND m.state < 16 AND (m.flags & 1) = 1{of} ORDER BY m.id
"""

SELECT_DUE: Final = """
SELECT id FROM messages
WHERE state = ?1 AND state > 1 AND state < 16 AND due_us <= ?2{of} ORDER BY due_us LIMIT ?3
"""

INSERT_EARLY: Final = """
INSERT INTO early_receipts (message, provider, provider_id, received_us, fact) VALUES (?, ?, ?, ?, ?)
"""

SELECT_EARLY: Final = """
SELECT e.message, e.fact FROM json_each(?1) AS asked JOIN early_receipts AS e ON e.message = asked.value
WHERE e.message <> 0 ORDER BY e.position
"""

SELECT_EARLY_BY_PROVIDER_ID: Final = """
SELECT e.position, e.provider_id, e.fact FROM json_each(?2) AS asked
JOIN early_receipts AS e ON e.provider = ?1 AND e.provider_id = asked.value WHERE e.message = 0 ORDER BY e.position
"""

DELETE_EARLY: Final = "DELETE FROM early_receipts WHERE message <> 0 AND message IN (SELECT value FROM json_each(?1))"

DELETE_EARLY_POSITIONS: Final = "DELETE FROM early_receipts WHERE position IN (SELECT value FROM json_each(?1))"

COUNT_EARLY: Final = "SELECT count(*) FROM early_receipts"

# As INSERT_REQUEST_ID.
INSERT_WEBHOOK_EVENT: Final = """
INSERT OR FAIL INTO webhook_events (provider, event_id, received_us) VALUES (?, ?, ?)
ON CONFLICT (provider, event_id) DO NOTHING
"""

# Those that an INSERT of so many rows has just made: positions grow at the end.
SELECT_NEWEST_WEBHOOK_EVENTS: Final = """
SELECT event_id FROM webhook_events WHERE position > (SELECT max(position) FROM webhook_events) - ?1
"""

# What still moves, and the ends that a receipt may upgrade: UNDELIVERED, NO_RECEIPT, UNRESOLVED. An index for each.
SELECT_BY_PROVIDER_ID: Final = """
SELECT m.provider_id, m.id FROM json_each(?1) AS asked JOIN messages AS m ON m.provider_id = asked.value
WHERE m.provider = ?2 AND m.state < 16 AND m.provider_id IS NOT NULL
UNION ALL
SELECT m.provider_id, m.id FROM json_each(?1) AS asked JOIN messages AS m ON m.provider_id = asked.value
WHERE m.provider = ?2 AND m.state > 16 AND m.state < 20 AND m.provider_id IS NOT NULL
"""

INSERT_UNKNOWN_WEBHOOK: Final = """
INSERT INTO unknown_webhooks (provider, event_id, received_us, body) VALUES (?, ?, ?, ?)
"""

INSERT_INBOUND: Final = """
INSERT INTO inbound (id, tenant, sender, recipient, received_us, provider, provider_id, record)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""

INSERT_OPT_OUT: Final = """
INSERT INTO opt_outs (tenant, recipient, source, create_us, evidence) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (tenant, recipient) DO NOTHING
"""

DELETE_OPT_OUT: Final = "DELETE FROM opt_outs WHERE tenant = ?1 AND recipient = ?2"

SELECT_OPT_OUT: Final = "SELECT source, create_us FROM opt_outs WHERE tenant = ?1 AND recipient = ?2"

SELECT_OPT_OUTS: Final = """
SELECT recipient, source, create_us FROM opt_outs WHERE tenant = ?1 AND recipient > ?2 ORDER BY recipient LIMIT ?3
"""

SELECT_ALL_OPT_OUTS: Final = "SELECT tenant, recipient FROM opt_outs"

INSERT_CONSENT_LOG: Final = """
INSERT INTO consent_log (tenant, recipient, action, source, at_us, occurred_us, evidence) VALUES (?, ?, ?, ?, ?, ?, ?)
"""

# Opt-outs in force whose last entry does not say that they took effect: a barrier that a crash cut short.
SELECT_BARRIERS_OPEN: Final = """
SELECT o.tenant, o.recipient FROM opt_outs AS o WHERE 2 <> (
  SELECT l.action FROM consent_log AS l WHERE l.tenant = o.tenant AND l.recipient = o.recipient
    AND l.action IN (1, 2, 3) ORDER BY l.position DESC LIMIT 1)
"""

# The same of one opt-out.
SELECT_BARRIER_OPEN: Final = """
SELECT 1 FROM opt_outs AS o WHERE o.tenant = ?1 AND o.recipient = ?2 AND 2 <> (
  SELECT l.action FROM consent_log AS l WHERE l.tenant = o.tenant AND l.recipient = o.recipient
    AND l.action IN (1, 2, 3) ORDER BY l.position DESC LIMIT 1)
"""

SELECT_LAST_OPT_OUT_OCCURRED: Final = """
SELECT max(occurred_us) FROM consent_log WHERE tenant = ?1 AND recipient = ?2 AND action IN (1, 4)
"""

UPSERT_LEDGER: Final = """
INSERT INTO ledgers (quota, day, spent, reserved) VALUES (?, ?, ?, ?)
ON CONFLICT (quota, day) DO UPDATE SET spent = excluded.spent, reserved = excluded.reserved
"""

# A ledger that begins in the middle of its day. Another that is there already knows better.
INSERT_LEDGER: Final = """
INSERT INTO ledgers (quota, day, spent, reserved) VALUES (?, ?, ?, ?) ON CONFLICT (quota, day) DO NOTHING
"""

SELECT_PIECE_END: Final = "SELECT id FROM messages WHERE tenant = ?1 AND id > ?2 ORDER BY id LIMIT 1 OFFSET ?3"

# What attempts since ?5 have spent, of some campaigns to a carrier or to one that is not known: taken, or nobody knows
# (the flag of a copy that may be out).
SELECT_STARTED: Final = """
SELECT coalesce(sum(iif(?7 = 1, segments, 1)), 0) FROM messages
WHERE tenant = ?1 AND id > ?2 AND id <= ?3 AND campaign IN (SELECT value FROM json_each(?4)) AND started_us >= ?5
  AND (?6 = 0 OR carrier = 0 OR carrier = ?6) AND (state BETWEEN 2 AND 19 OR flags & 8 <> 0)
"""

# After a crash every reservation belongs to an attempt without outcome: it counts as spent.
SETTLE_LEDGERS: Final = "UPDATE ledgers SET spent = spent + reserved, reserved = 0 WHERE reserved <> 0"

SELECT_LEDGERS: Final = "SELECT quota, day, spent, reserved FROM ledgers"

# Recipients lie scattered: each row is a page of the log. What is known already is written again once a day.
UPSERT_CARRIER: Final = """
INSERT INTO carriers (recipient, carrier, learned_us) VALUES (?, ?, ?)
ON CONFLICT (recipient) DO UPDATE SET carrier = excluded.carrier, learned_us = excluded.learned_us
WHERE carriers.carrier <> excluded.carrier OR carriers.learned_us < excluded.learned_us - 86400000000
"""

SELECT_CARRIERS: Final = "SELECT recipient, carrier FROM carriers ORDER BY learned_us DESC LIMIT ?1"

INSERT_RECIPE: Final = """
INSERT INTO recipes (provider, callback_base, mac_key, renderer) VALUES (?, ?, ?, ?)
ON CONFLICT (provider, callback_base, mac_key, renderer) DO UPDATE SET renderer = excluded.renderer RETURNING key
"""

SELECT_RECIPES: Final = "SELECT key, callback_base, mac_key FROM recipes WHERE provider = ?1 AND renderer = ?2"

RAISE_EPOCH: Final = """
INSERT INTO facts (name, value) VALUES ('epoch', 1)
ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value
"""

SELECT_FACT: Final = "SELECT value FROM facts WHERE name = ?1"

SELECT_LAST_ID: Final = """
SELECT max((SELECT coalesce(max(id), 0) FROM messages), (SELECT coalesce(max(id), 0) FROM inbound))
"""

_VIEW: Final = """
SELECT m.id, m.tenant, m.campaign, m.sender, m.recipient, m.class, m.kind, m.encoding, m.segments, m.state, m.reason,
  m.code, m.seq, m.attempt, m.generation, m.flags, m.due_us, m.accept_us, m.expires_us, m.updated_us, m.provider,
  m.provider_id, m.carrier, m.history, b.record
"""

SELECT_VIEW: Final = _VIEW + "FROM messages AS m JOIN bodies AS b ON b.id = m.id WHERE m.id = ?1 AND m.tenant = ?2"

# How far one page looks at the tenant's messages, newest first, before any filter.
SELECT_STRETCH: Final = """
SELECT min(id), count(*) FROM (
  SELECT id FROM messages WHERE tenant = ? AND id < ? AND id >= ? ORDER BY id DESC LIMIT ?)
"""

SELECT_VIEWS_BEFORE: Final = _VIEW + (
    "FROM messages AS m JOIN bodies AS b ON b.id = m.id WHERE m.tenant = ? AND m.id < ? AND m.id >= ? "
    "{filters} ORDER BY m.id DESC LIMIT ?"
)

SELECT_EVENTS_AFTER: Final = """
SELECT position, events FROM events WHERE tenant = ?1 AND position > ?2 AND position <= ?3 ORDER BY position LIMIT ?4
"""

# Two look-ups at the ends; asked for together, SQLite would read the whole table.
SELECT_EVENT_BOUNDS: Final = """
SELECT coalesce((SELECT min(position) FROM events), 0), coalesce((SELECT max(position) FROM events), 0)
"""

SELECT_OLDEST_EVENT: Final = "SELECT at_us FROM events ORDER BY position LIMIT 1"

# Rows come in by time, so only the oldest few are looked at. The newest row always stays, so that positions never
# start over.
DELETE_EVENTS: Final = """
DELETE FROM events WHERE position IN (
  SELECT position FROM (SELECT position, at_us FROM events ORDER BY position LIMIT ?2)
  WHERE at_us < ?1 AND position < (SELECT max(position) FROM events))
"""

DELETE_WEBHOOK_EVENTS: Final = """
DELETE FROM webhook_events WHERE position IN (
  SELECT position FROM (SELECT position, received_us FROM webhook_events ORDER BY position LIMIT ?2)
  WHERE received_us < ?1)
"""

DELETE_UNKNOWN_WEBHOOKS: Final = """
DELETE FROM unknown_webhooks WHERE position IN (
  SELECT position FROM (SELECT position, received_us FROM unknown_webhooks ORDER BY position LIMIT ?2)
  WHERE received_us < ?1)
"""

DELETE_EARLY_RECEIPTS: Final = """
DELETE FROM early_receipts WHERE position IN (
  SELECT position FROM (SELECT position, received_us FROM early_receipts ORDER BY position LIMIT ?2)
  WHERE received_us < ?1)
"""

# The few that still move, or did lately, are passed by.
SELECT_MESSAGES_TO_PRUNE: Final = """
SELECT id FROM messages WHERE id < ?1 AND state >= 16 AND due_us < ?3 ORDER BY id LIMIT ?2
"""

DELETE_MESSAGE: Final = "DELETE FROM messages WHERE id = ?"

DELETE_BODY: Final = "DELETE FROM bodies WHERE id = ?"

# Request ids whose message is older than the retention: found through the time-ordered ids, not by a scan.
SELECT_REQUEST_IDS_TO_PRUNE: Final = """
SELECT b.id, m.tenant, b.record FROM bodies AS b JOIN messages AS m ON m.id = b.id
WHERE b.id > ?1 AND b.id < ?2 ORDER BY b.id LIMIT ?3
"""

DELETE_REQUEST_ID: Final = "DELETE FROM request_ids WHERE tenant = ? AND request_id = ? AND id = ?"

UPSERT_FACT: Final = """
INSERT INTO facts (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""

COUNT_BY_STATE: Final = """
SELECT 1, count(*) FROM messages WHERE state = 1 AND campaign > 0
UNION ALL
SELECT state, count(*) FROM messages WHERE state > 1 AND state < 16 GROUP BY state
"""
