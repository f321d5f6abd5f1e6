"""The statements of the MySQL store that the core does not render, one constant each.

It runs nothing. Those of a batch are rendered whole by the core (`rust_core/src/render.rs`), or take rows and lists
from it: `{ids}` is a list of numbers, `INSERT_…` and `REPLACE_…` are heads that rows follow. `%s` are the driver's
parameters.
"""

from typing import Final

# Ids in one list: MariaDB makes a join with a temporary table of 1,000 and more.
IDS_MAX: Final = 999
# What a statement may take: far below the smallest `max_allowed_packet` in use (16 MiB).
BYTES_MAX: Final = 1 << 20

# -- transactions

BEGIN_LANE: Final = (
    "INSERT INTO lanes (node, lane, run, number) VALUES (%s, %s, %s, 0) "
    "ON DUPLICATE KEY UPDATE run = VALUES(run), number = 0"
)
# Its guard is the last transaction of ours that was committed: a server that lacks it is found here.
NUMBER_LANE: Final = "UPDATE lanes SET number = %s WHERE node = %s AND lane = %s AND run = %s AND number = %s"
# Waits until whoever wrote it last has committed or is undone.
SELECT_LANE: Final = "SELECT run, number FROM lanes WHERE node = %s AND lane = %s FOR UPDATE"
SELECT_LANES: Final = "SELECT run, number FROM lanes WHERE node = %s AND lane IN (1, 2) ORDER BY lane"

SELECT_EVENT_SLOTS: Final = "SELECT slot, next_position FROM event_slots WHERE slot IN ({ids}) ORDER BY slot FOR UPDATE"
UPDATE_EVENT_SLOT: Final = "UPDATE event_slots SET next_position = %s WHERE slot = %s"
INSERT_EVENTS: Final = "INSERT INTO events (slot, position, tenant, at_us, events) VALUES "

# -- owners

# Rows of a few shards of a small table: without the hint all of them are looked at, and each is locked for that.
_LEASES: Final = "FROM leases FORCE INDEX (PRIMARY) WHERE shard IN ({shards}) ORDER BY shard"
SELECT_LEASES_SHARED: Final = f"SELECT shard, epoch {_LEASES} LOCK IN SHARE MODE"
SELECT_LEASES_HELD: Final = f"SELECT shard, epoch {_LEASES}"
_NOW_US: Final = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"
SELECT_NOW: Final = f"SELECT {_NOW_US}"
# A lease runs as long as its owner's number does: one row to renew, that no transaction of work ever locks.
SELECT_LEASE_HOLDERS: Final = (
    "SELECT l.shard, l.owner, l.node, CAST(COALESCE(n.expires_us, 0) AS SIGNED) FROM leases AS l "
    "LEFT JOIN nodes AS n ON n.node = l.node AND n.owner = l.owner ORDER BY l.shard"
)
SELECT_LEASES_ALONE: Final = f"SELECT shard {_LEASES} FOR UPDATE"
SELECT_NODES_SHARED: Final = "SELECT node FROM nodes WHERE node IN ({ids}) ORDER BY node LOCK IN SHARE MODE"
TAKE_LEASES: Final = (
    "UPDATE leases FORCE INDEX (PRIMARY) SET owner = %s, node = %s, epoch = %s WHERE shard IN ({shards}) ORDER BY shard"
)
RELEASE_LEASES: Final = (
    "UPDATE leases FORCE INDEX (PRIMARY) SET owner = '', node = 0 WHERE shard IN ({shards}) AND owner = %s "
    "ORDER BY shard"
)
SELECT_NODES_ALONE: Final = "SELECT node, owner, expires_us FROM nodes ORDER BY node FOR UPDATE"
TAKE_NODE: Final = (
    f"INSERT INTO nodes (node, owner, incarnation, expires_us, roles) VALUES (%s, %s, %s, {_NOW_US} + %s, %s) "  # noqa: S608
    "ON DUPLICATE KEY UPDATE owner = VALUES(owner), incarnation = VALUES(incarnation), "
    "expires_us = VALUES(expires_us), roles = VALUES(roles)"
)
# What was given back stays so.
RENEW_NODE: Final = (
    f"UPDATE nodes SET expires_us = {_NOW_US} + %s WHERE node = %s AND incarnation = %s AND expires_us > 0"  # noqa: S608
)
RELEASE_NODE: Final = "UPDATE nodes SET expires_us = 0 WHERE node = %s AND incarnation = %s"
SELECT_NODES: Final = f"SELECT node, owner, roles FROM nodes WHERE expires_us > {_NOW_US} ORDER BY node"  # noqa: S608
COUNT_SENDERS: Final = (
    f"SELECT COUNT(*) FROM nodes WHERE expires_us > {_NOW_US} AND FIND_IN_SET('dispatch', roles) > 0 AND node <> %s"  # noqa: S608
)
RAISE_EPOCH: Final = "UPDATE facts SET value = value + 1 WHERE name = 'epoch'"
SELECT_EPOCH: Final = "SELECT value FROM facts WHERE name = 'epoch'"
# Nobody else has an attempt out: every reservation is of one without outcome, and counts as spent. What a node that
# died beside others had reserved stays so, which lets no more pass.
SETTLE_LEDGERS: Final = "UPDATE ledgers SET spent = spent + reserved, reserved = 0 WHERE reserved <> 0"
SELECT_LAST_ID: Final = (
    "SELECT CAST(GREATEST((SELECT COALESCE(MAX(id), 0) FROM messages), (SELECT COALESCE(MAX(id), 0) FROM inbound)) "
    "AS UNSIGNED)"
)

# -- what nodes hand to the owners

INSERT_INBOX: Final = "INSERT INTO inbox (shard, kind, at_us, payload) VALUES "
SELECT_INBOX: Final = (
    "SELECT position, shard, kind, at_us, payload FROM inbox WHERE shard IN ({shards}) AND position NOT IN ({ids}) "
    "ORDER BY position LIMIT {rows}"
)
DELETE_INBOX: Final = "DELETE FROM inbox WHERE position IN ({ids})"
COUNT_INBOX: Final = "SELECT COUNT(*), CAST(COALESCE(MIN(at_us), 0) AS SIGNED) FROM inbox WHERE shard IN ({shards})"
SELECT_CAMPAIGNS: Final = "SELECT id, campaign FROM messages WHERE id IN ({ids})"

# -- rates that are wider than a shard

SELECT_BUDGETS_ALONE: Final = (
    "SELECT quota, amount, burst, window_us, full_us, rest, latest_us FROM budgets FORCE INDEX (PRIMARY) "
    "WHERE quota IN ({ids}) ORDER BY quota FOR UPDATE"
)
# Rows that are not there yet are made first, under terms that nobody has: so they begin empty, and are locked like any.
INSERT_BUDGETS: Final = "INSERT IGNORE INTO budgets (quota, amount, burst, window_us, full_us, rest, latest_us) VALUES "
REPLACE_BUDGETS: Final = "REPLACE INTO budgets (quota, amount, burst, window_us, full_us, rest, latest_us) VALUES "
SELECT_CONSENT_TAIL: Final = "SELECT CAST(COALESCE(MAX(position), 0) AS UNSIGNED) FROM consent_log"
SELECT_CONSENTS: Final = (
    "SELECT position, tenant, recipient, action FROM consent_log WHERE position > %s ORDER BY position LIMIT %s"
)
SELECT_EVENTS_MARK: Final = "SELECT CAST(SUM(next_position) AS UNSIGNED) FROM event_slots"

# -- append

# `{pairs}`: `tenant = 1 AND request_id IN (…)` for each tenant, which both servers read as ranges of the key.
SELECT_REQUEST_IDS: Final = (
    "SELECT r.tenant, CONVERT(r.request_id USING utf8mb4), r.id, r.content_hash, m.segments, m.encoding "
    "FROM request_ids AS r JOIN messages AS m ON m.id = r.id WHERE {pairs}"
)
DELETE_MESSAGES: Final = "DELETE FROM messages WHERE id IN ({ids})"
DELETE_BODIES: Final = "DELETE FROM bodies WHERE id IN ({ids})"
DELETE_REQUEST_ID_OF: Final = "DELETE FROM request_ids WHERE tenant = %s AND request_id = %s AND id = %s"

# -- attempts

# The registry's changes write it, so an attempt is written down wholly before one of them or wholly behind it.
SELECT_REGISTRY_SHARED: Final = "SELECT value FROM facts WHERE name = 'registry_version' LOCK IN SHARE MODE"
SELECT_CAPS: Final = "SELECT `key` FROM quotas WHERE time_zone <> ''"
SELECT_SLOTS_SHARED: Final = "SELECT slot FROM opt_out_slots WHERE slot IN ({ids}) ORDER BY slot LOCK IN SHARE MODE"
SELECT_SLOTS_ALONE: Final = "SELECT slot FROM opt_out_slots WHERE slot IN ({ids}) ORDER BY slot FOR UPDATE"
# A day's row is there from its first attempt on; the day of which the quota was counted says that it was.
ADD_LEDGER_DAY: Final = "INSERT IGNORE INTO ledgers (quota, day, spent, reserved) VALUES "
RESERVE_LEDGER: Final = (
    "UPDATE ledgers SET reserved = reserved + %s WHERE quota = %s AND day = %s AND spent + reserved + %s <= %s"
)
SELECT_LEDGER: Final = "SELECT quota, day, spent, reserved FROM ledgers WHERE quota = %s AND day = %s"
CHARGE_LEDGER: Final = "UPDATE ledgers SET spent = spent + %s, reserved = reserved + %s WHERE quota = %s AND day = %s"

_HELD: Final = (
    "SELECT m.id, m.tenant, m.campaign, m.sender, m.recipient, m.class, m.kind, m.encoding, m.segments, m.seq, "
    "m.attempt, m.generation, m.counted, m.flags, m.due_us, m.expires_us, m.recipe, b.record "
    "FROM messages AS m FORCE INDEX ({index}) JOIN bodies AS b ON b.id = m.id WHERE "
)
# Statistics lag behind a backlog that comes and goes in minutes, so they choose no index here.
SELECT_HELD: Final = _HELD.replace("{index}", "PRIMARY") + "m.id IN ({ids}) AND m.state = 1 ORDER BY m.id"

# -- settle and receive

INSERT_EARLY: Final = "INSERT INTO early_receipts (message, provider, provider_id, received_us, fact) VALUES "
SELECT_EARLY: Final = (
    "SELECT message, fact FROM early_receipts FORCE INDEX (early_receipts_message) "
    "WHERE message IN ({ids}) AND message <> 0 ORDER BY position"
)
# `{texts}` is a list of texts.
SELECT_EARLY_BY_PROVIDER_ID: Final = (
    "SELECT position, provider_id, fact FROM early_receipts WHERE provider = {provider} AND provider_id IN ({texts}) "
    "AND message = 0 ORDER BY position"
)
# Receipts known by the provider's id alone, whose attempt was stored beside them.
SELECT_EARLY_TO_JOIN: Final = (
    "SELECT e.position, m.id FROM early_receipts AS e FORCE INDEX (early_receipts_message) "
    "JOIN messages AS m FORCE INDEX (messages_provider_id) "
    "ON m.provider_id = e.provider_id AND m.provider = e.provider "
    "WHERE e.message = 0 AND e.received_us >= %s AND (m.state < 16 OR m.state > 16 AND m.state < 20){of} "
    "ORDER BY e.position LIMIT {rows}"
)
UPDATE_EARLY_MESSAGE: Final = "UPDATE early_receipts SET message = %s WHERE position = %s AND message = 0"
DELETE_EARLY: Final = "DELETE FROM early_receipts WHERE message IN ({ids}) AND message <> 0"
DELETE_EARLY_POSITIONS: Final = "DELETE FROM early_receipts WHERE position IN ({ids})"
# `{turns}`: `WHEN id THEN time` for each id.
UPDATE_LOOKUPS_DUE: Final = (
    "UPDATE messages FORCE INDEX (PRIMARY) SET due_us = LEAST(due_us, CASE id {turns} END) "
    "WHERE id IN ({ids}) AND state IN (3, 4)"
)
INSERT_WEBHOOK_EVENTS: Final = "INSERT INTO webhook_events (provider, event_id, received_us) VALUES "
SELECT_WEBHOOK_EVENTS: Final = (
    "SELECT CONVERT(event_id USING utf8mb4) FROM webhook_events WHERE provider = {provider} AND event_id IN ({texts})"
)
# What still moves, and the ends that a receipt may upgrade: UNDELIVERED, NO_RECEIPT, UNRESOLVED. Each day is looked
# into by itself, and names of a provider are random: of an old day each costs a page that nobody else has asked for.
SELECT_BY_PROVIDER_ID: Final = (
    "SELECT provider_id, id FROM messages FORCE INDEX (messages_provider_id) WHERE provider_id IN ({texts}) "
    "AND id >= {from_id} AND id < {below_id} AND provider = {provider} "
    "AND (state < 16 OR state > 16 AND state < 20) ORDER BY id"
)
INSERT_UNKNOWN_WEBHOOKS: Final = "INSERT INTO unknown_webhooks (provider, event_id, received_us, body) VALUES "
INSERT_INBOUND: Final = (
    "INSERT INTO inbound (id, tenant, sender, recipient, received_us, provider, provider_id, record) VALUES "
)
# Known already and written less than a day ago: left alone.
REPLACE_CARRIERS: Final = "REPLACE INTO carriers (recipient, carrier, learned_us) VALUES "
SELECT_CARRIERS_OF: Final = (
    "SELECT recipient, carrier FROM carriers WHERE recipient IN ({ids}) AND learned_us >= {since_us}"
)

# -- consent

INSERT_OPT_OUT: Final = "INSERT INTO opt_outs (tenant, recipient, source, create_us, evidence) VALUES "
KEEP_FIRST: Final = " ON DUPLICATE KEY UPDATE tenant = tenant"
DELETE_OPT_OUT: Final = "DELETE FROM opt_outs WHERE tenant = %s AND recipient = %s"
SELECT_OPT_OUT: Final = "SELECT source, create_us FROM opt_outs WHERE tenant = %s AND recipient = %s"
INSERT_CONSENT_LOG: Final = (
    "INSERT INTO consent_log (tenant, recipient, action, source, at_us, occurred_us, evidence) VALUES "
)
SELECT_LAST_OPT_OUT_OCCURRED: Final = (
    "SELECT MAX(occurred_us) FROM consent_log WHERE tenant = %s AND recipient = %s AND action IN (1, 4)"
)
# Opt-outs in force whose last entry does not say that they took effect: a barrier that a crash cut short.
SELECT_BARRIERS_OPEN: Final = (
    "SELECT o.tenant, o.recipient FROM opt_outs AS o WHERE 2 <> (SELECT l.action FROM consent_log AS l "
    "WHERE l.tenant = o.tenant AND l.recipient = o.recipient AND l.action IN (1, 2, 3) "
    "ORDER BY l.position DESC LIMIT 1)"
)
SELECT_BARRIER_OPEN: Final = SELECT_BARRIERS_OPEN + " AND o.tenant = %s AND o.recipient = %s"
SELECT_OPT_OUTS: Final = "SELECT tenant, recipient FROM opt_outs"
SELECT_OPT_OUTS_OF: Final = (
    "SELECT recipient, source, create_us FROM opt_outs WHERE tenant = %s AND recipient > %s ORDER BY recipient LIMIT %s"
)

# -- ledgers, recipes, facts

INSERT_LEDGER: Final = (
    "INSERT INTO ledgers (quota, day, spent, reserved) VALUES (%s, %s, %s, %s) ON DUPLICATE KEY UPDATE quota = quota"
)
SELECT_LEDGERS: Final = "SELECT quota, day, spent, reserved FROM ledgers"
SELECT_LEDGERS_SINCE: Final = "SELECT quota, day, spent, reserved FROM ledgers WHERE day >= %s"
INSERT_RECIPE: Final = "INSERT INTO recipes (provider, callback_base, mac_key, renderer) VALUES (%s, %s, %s, %s)"
SELECT_RECIPE: Final = (
    "SELECT `key` FROM recipes WHERE provider = %s AND callback_base = %s AND mac_key = %s AND renderer = %s"
)
SELECT_RECIPES: Final = "SELECT `key`, callback_base, mac_key FROM recipes WHERE provider = %s AND renderer = %s"
REPLACE_FACTS: Final = "REPLACE INTO facts (name, value) VALUES "
SELECT_FACTS: Final = "SELECT name, value FROM facts WHERE name IN ({texts})"
SELECT_REGISTRY_VERSION: Final = "SELECT value FROM facts WHERE name = 'registry_version'"

# -- retention

# Rows come in by time, so only the oldest few are looked at: none has an index by time.
SELECT_OLD: Final = (
    "SELECT position FROM (SELECT position, received_us FROM {table} ORDER BY position LIMIT %s) AS oldest "
    "WHERE received_us < %s"
)
DELETE_OLD: Final = "DELETE FROM {table} WHERE position IN ({ids})"
# The newest row always stays.
SELECT_OLD_EVENTS: Final = (
    "SELECT position FROM (SELECT position, at_us FROM events WHERE slot = %s ORDER BY position LIMIT %s) AS oldest "
    "WHERE at_us < %s AND position < (SELECT next_position - 1 FROM event_slots WHERE slot = %s)"
)
DELETE_EVENTS: Final = "DELETE FROM events WHERE slot = {slot} AND position IN ({ids})"
SELECT_REQUEST_IDS_TO_PRUNE: Final = (
    "SELECT b.id, m.tenant, b.record FROM bodies AS b JOIN messages AS m ON m.id = b.id "
    "WHERE b.id > %s AND b.id < %s ORDER BY b.id LIMIT %s"
)
# A request id that was used again belongs to a later message.
DELETE_REQUEST_IDS: Final = "DELETE FROM request_ids WHERE ({pairs}) AND id <= {upto}"

# -- reads

SELECT_CARRIERS: Final = "SELECT recipient, carrier FROM carriers ORDER BY learned_us DESC LIMIT %s"
COUNT_EARLY: Final = "SELECT COUNT(*) FROM early_receipts"
# `{of}` is empty, or SHARDS_OF.
SHARDS_OF: Final = " AND MOD({m}campaign, 64) IN ({shards})"
SELECT_IN_STATE: Final = "SELECT id FROM messages WHERE state = %s{of} ORDER BY id"
# Attempts to a number that are written down, without outcome, and may be on the wire.
SELECT_OPEN_TO: Final = (
    "SELECT id FROM messages FORCE INDEX (messages_due) WHERE state = 2 AND due_us > %s AND tenant = %s "
    "AND recipient = %s"
)
SELECT_KEY_HOLDERS: Final = (
    "SELECT m.id, m.tenant, m.campaign, b.record FROM messages AS m JOIN bodies AS b ON b.id = m.id "
    "WHERE m.state IN (2, 5) AND (m.flags & 1) = 1{of} ORDER BY m.id"
)
SELECT_CAMPAIGN_KEYS: Final = "SELECT `key` FROM campaigns ORDER BY `key`"
SELECT_WAITING_BOUNDS: Final = (
    "SELECT campaign, stream, MIN(id), MAX(id) FROM messages WHERE state = 1{of} GROUP BY campaign, stream"
)
SELECT_WAITING_PIECE: Final = (
    _HELD.replace("{index}", "messages_waiting")
    + "m.state = 1 AND m.campaign = %s AND m.stream = %s AND m.id >= %s AND m.id <= %s ORDER BY m.id LIMIT %s"
)
SELECT_WAITING_EXPIRY: Final = (
    "SELECT id, expires_us FROM messages WHERE state = 1 AND campaign = %s AND stream = %s AND id > %s "
    "ORDER BY id LIMIT %s"
)
SELECT_DUE: Final = "SELECT id FROM messages WHERE state = %s AND due_us <= %s{of} ORDER BY due_us LIMIT %s"
SELECT_LATEST_DUE: Final = (
    "SELECT due_us, id FROM messages WHERE state = %s AND due_us <= %s AND (due_us < %s OR id < %s){of} "
    "ORDER BY due_us DESC, id DESC LIMIT %s"
)
SELECT_PIECE_END: Final = "SELECT id FROM messages WHERE tenant = %s AND id > %s ORDER BY id LIMIT 1 OFFSET %s"
# What attempts since a time have spent: taken, or nobody knows (the flag of a copy that may be out).
SELECT_STARTED: Final = (
    "SELECT CAST(COALESCE(SUM({unit}), 0) AS SIGNED) FROM messages WHERE tenant = %s AND id > %s AND id <= %s "
    "AND campaign IN ({ids}) AND started_us >= %s AND (%s = 0 OR carrier = 0 OR carrier = %s) "
    "AND (state BETWEEN 2 AND 19 OR flags & 8 <> 0)"
)
COUNT_WAITING: Final = (
    "SELECT COUNT(*) FROM messages FORCE INDEX (messages_waiting) WHERE state = 1 AND MOD(campaign, 64) IN ({shards})"
)
COUNT_BY_STATE: Final = "SELECT state, COUNT(*) FROM messages WHERE state < 16 GROUP BY state"

_VIEW: Final = (
    "SELECT m.id, m.tenant, m.campaign, m.sender, m.recipient, m.class, m.kind, m.encoding, m.segments, m.state, "
    "m.reason, m.code, m.seq, m.attempt, m.generation, m.flags, m.due_us, m.accept_us, m.expires_us, m.updated_us, "
    "m.provider, m.provider_id, m.carrier, m.history, b.record "
    "FROM messages AS m JOIN bodies AS b ON b.id = m.id WHERE "
)
SELECT_VIEW: Final = _VIEW + "m.id = %s AND m.tenant = %s"
SELECT_STRETCH: Final = (
    "SELECT CAST(COALESCE(MIN(id), 0) AS UNSIGNED), COUNT(*) FROM "
    "(SELECT id FROM messages WHERE tenant = %s AND id < %s AND id >= %s ORDER BY id DESC LIMIT %s) AS stretch"
)
SELECT_VIEWS: Final = _VIEW + "m.tenant = %s AND m.id < %s AND m.id >= %s{filters} ORDER BY m.id DESC LIMIT %s"

SELECT_EVENTS: Final = (
    "SELECT position, events FROM events WHERE tenant = %s AND position > %s AND position <= %s "
    "ORDER BY position LIMIT %s"
)
SELECT_EVENT_BOUNDS: Final = (
    "SELECT CAST(COALESCE((SELECT MIN(position) FROM events WHERE slot = %s), 0) AS UNSIGNED), "
    "CAST(COALESCE((SELECT MAX(position) FROM events WHERE slot = %s), 0) AS UNSIGNED)"
)
SELECT_NEWEST_EVENT: Final = "SELECT CAST(MAX(next_position) - 1 AS UNSIGNED) FROM event_slots"
# Of each slot one row by itself: servers read all positions for what depends on the slot of another table's row.
SELECT_OLDEST_EVENTS: Final = "SELECT MIN(at_us) FROM ({slots}) AS oldest"
SELECT_OLDEST_OF_SLOT: Final = "(SELECT at_us FROM events WHERE slot = {slot} ORDER BY position LIMIT 1)"
