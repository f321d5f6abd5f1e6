"""The first schema: hot tables of the corridor, and the control plane as it is on the embedded store.

Every step may find its work done: statements of the schema commit one by one here, and a run may have ended half-way.
Integer codes are the numbers of the proto; times are microseconds since the Unix epoch. What is compared byte by byte
is VARBINARY: collations take trailing spaces for nothing.
"""

from typing import Final

import sqlalchemy as sa
from alembic import context, op

revision = "0001"
down_revision = None
compatible_from = "0001"
branch_labels = None
depends_on = None

EVENT_SLOTS: Final = 16
OPT_OUT_SLOTS: Final = 4096
SHARDS: Final = 64

# Partitions by day of the id are made ahead (`engine/stores/mysql/partitions.py`); the last one takes what is beyond.
BY_ID: Final = "PARTITION BY RANGE (id) (PARTITION pmax VALUES LESS THAN MAXVALUE)"

HOT: Final = f"""
-- The narrow row of a message; everything that changes is here. Partitioned, so it has no unique key but the first.
CREATE TABLE IF NOT EXISTS messages (
  id BIGINT UNSIGNED NOT NULL,                 -- time-ordered: rows append, never scatter
  tenant INT UNSIGNED NOT NULL, campaign INT UNSIGNED NOT NULL,
  sender BIGINT UNSIGNED NOT NULL, recipient BIGINT UNSIGNED NOT NULL,   -- digits of the E.164 number
  class TINYINT UNSIGNED NOT NULL, kind TINYINT UNSIGNED NOT NULL, encoding TINYINT UNSIGNED NOT NULL,
  segments SMALLINT UNSIGNED NOT NULL,
  state TINYINT UNSIGNED NOT NULL, reason TINYINT UNSIGNED NOT NULL,
  code VARCHAR(255) NOT NULL DEFAULT '',       -- the provider's code behind the reason
  seq INT UNSIGNED NOT NULL,                   -- of the last event; guards the next write
  attempt SMALLINT UNSIGNED NOT NULL, generation SMALLINT UNSIGNED NOT NULL, counted SMALLINT UNSIGNED NOT NULL,
  flags INT UNSIGNED NOT NULL,
  due_us BIGINT NOT NULL, accept_us BIGINT NOT NULL, expires_us BIGINT NOT NULL, updated_us BIGINT NOT NULL,
  started_us BIGINT NOT NULL DEFAULT 0,        -- of the last attempt's intent; quotas are rebuilt from it
  epoch BIGINT UNSIGNED NOT NULL DEFAULT 0,    -- of the owner that wrote the intent
  provider INT UNSIGNED NOT NULL DEFAULT 0, recipe INT UNSIGNED NOT NULL DEFAULT 0,
  provider_id VARCHAR(255) NULL,
  carrier TINYINT UNSIGNED NOT NULL DEFAULT 0,
  crashes TINYINT UNSIGNED NOT NULL DEFAULT 0, -- times that processing it took the process down
  history MEDIUMBLOB NOT NULL,                 -- the timeline, encoded
  shard SMALLINT UNSIGNED GENERATED ALWAYS AS (campaign % {SHARDS}) VIRTUAL,
  -- The stream of a waiting message (rust_core/src/spill.rs). Stored, since it is in an index: to a table with an
  -- indexed virtual column MariaDB adds no other unless writers are kept out while all rows are copied.
  stream TINYINT UNSIGNED GENERATED ALWAYS AS
    (CASE WHEN flags & 1 <> 0 THEN 0 WHEN flags & 32 <> 0 THEN 4 ELSE class END) STORED,
  PRIMARY KEY (id),
  KEY messages_due (state, due_us, id),        -- recovery, the sweeper; over partitions only a named `id` gives order
  KEY messages_waiting (state, campaign, stream, id),
  KEY messages_tenant (tenant, id),            -- ListMessages
  KEY messages_provider_id (provider_id)       -- receipts that carry no MAC
) {{table}} {BY_ID};

-- The submission as admitted; inserted with its message, never changed.
CREATE TABLE IF NOT EXISTS bodies (
  id BIGINT UNSIGNED NOT NULL, record MEDIUMBLOB NOT NULL, PRIMARY KEY (id)
) {{table}} {BY_ID};

-- Idempotency; in the same transaction as the message it names.
CREATE TABLE IF NOT EXISTS request_ids (
  tenant INT UNSIGNED NOT NULL, request_id VARBINARY(64) NOT NULL, id BIGINT UNSIGNED NOT NULL,
  content_hash BINARY(16) NOT NULL,            -- over the decoded fields, not over wire bytes
  PRIMARY KEY (tenant, request_id)
) {{table}};

-- The event log; a row may hold a whole batch of one tenant's transitions, each with its seq. Positions count within a
-- slot and are given out under its row of event_slots, so that they become visible in order.
CREATE TABLE IF NOT EXISTS events (
  slot TINYINT UNSIGNED NOT NULL, position BIGINT UNSIGNED NOT NULL,
  tenant INT UNSIGNED NOT NULL, at_us BIGINT NOT NULL, events MEDIUMBLOB NOT NULL,
  PRIMARY KEY (slot, position), KEY events_tenant (tenant, position)
) {{table}};
CREATE TABLE IF NOT EXISTS event_slots (
  slot TINYINT UNSIGNED NOT NULL, next_position BIGINT UNSIGNED NOT NULL, PRIMARY KEY (slot)
) {{table}};

-- Receipts that came before our own record of the send, or for an earlier generation.
CREATE TABLE IF NOT EXISTS early_receipts (
  position BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  message BIGINT UNSIGNED NOT NULL,            -- 0 when only the provider's id is known
  provider INT UNSIGNED NOT NULL, provider_id VARCHAR(255) NOT NULL, received_us BIGINT NOT NULL,
  fact MEDIUMBLOB NOT NULL,
  PRIMARY KEY (position), KEY early_receipts_message (message), KEY early_receipts_provider_id (provider, provider_id)
) {{table}};

-- Webhook deduplication, also against replay inside the signature's window.
CREATE TABLE IF NOT EXISTS webhook_events (
  position BIGINT UNSIGNED NOT NULL AUTO_INCREMENT, provider INT UNSIGNED NOT NULL, event_id VARBINARY(255) NOT NULL,
  received_us BIGINT NOT NULL,
  PRIMARY KEY (position), UNIQUE KEY webhook_events_id (provider, event_id)
) {{table}};

-- Who must not be written to; a row blocks, its absence permits.
CREATE TABLE IF NOT EXISTS opt_outs (
  tenant INT UNSIGNED NOT NULL, recipient BIGINT UNSIGNED NOT NULL, source TINYINT UNSIGNED NOT NULL,
  create_us BIGINT NOT NULL, evidence TEXT NOT NULL, PRIMARY KEY (tenant, recipient)
) {{table}};
-- What is locked in place of a row of opt_outs that is not there: shared by an attempt, for itself by an opt-out.
CREATE TABLE IF NOT EXISTS opt_out_slots (slot SMALLINT UNSIGNED NOT NULL, PRIMARY KEY (slot)) {{table}};

-- The proof of every opt-out and opt-in; appended to only.
CREATE TABLE IF NOT EXISTS consent_log (
  position BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  tenant INT UNSIGNED NOT NULL, recipient BIGINT UNSIGNED NOT NULL,
  action TINYINT UNSIGNED NOT NULL,            -- 1 opt-out, 2 opt-out effective, 3 opt-in, 4 opt-out repeated
  source TINYINT UNSIGNED NOT NULL, at_us BIGINT NOT NULL, occurred_us BIGINT NOT NULL, evidence TEXT NOT NULL,
  PRIMARY KEY (position), KEY consent_log_recipient (tenant, recipient)
) {{table}};

-- Messages that people sent to a number of ours.
CREATE TABLE IF NOT EXISTS inbound (
  id BIGINT UNSIGNED NOT NULL, tenant INT UNSIGNED NOT NULL, sender BIGINT UNSIGNED NOT NULL,
  recipient BIGINT UNSIGNED NOT NULL, received_us BIGINT NOT NULL, provider INT UNSIGNED NOT NULL,
  provider_id VARCHAR(255) NOT NULL, record MEDIUMBLOB NOT NULL,
  PRIMARY KEY (id), KEY inbound_tenant (tenant, id)
) {{table}};

-- Webhooks of a type this version does not know: kept, not refused.
CREATE TABLE IF NOT EXISTS unknown_webhooks (
  position BIGINT UNSIGNED NOT NULL AUTO_INCREMENT, provider INT UNSIGNED NOT NULL, event_id VARBINARY(255) NOT NULL,
  received_us BIGINT NOT NULL, body MEDIUMBLOB NOT NULL, PRIMARY KEY (position)
) {{table}};

-- Daily caps: what a calendar day has spent, and what attempts without an outcome hold.
CREATE TABLE IF NOT EXISTS ledgers (
  quota BIGINT UNSIGNED NOT NULL, day INT NOT NULL,   -- ordinal of the date in the quota's own time zone
  spent BIGINT NOT NULL, reserved BIGINT NOT NULL, PRIMARY KEY (quota, day)
) {{table}};

-- The carrier of a recipient, learned from provider answers.
CREATE TABLE IF NOT EXISTS carriers (
  recipient BIGINT UNSIGNED NOT NULL, carrier TINYINT UNSIGNED NOT NULL, learned_us BIGINT NOT NULL,
  PRIMARY KEY (recipient), KEY carriers_learned (learned_us)
) {{table}};

-- Everything beside the body that the bytes of a send depend on, so that a generation can be rendered again.
CREATE TABLE IF NOT EXISTS recipes (
  `key` INT UNSIGNED NOT NULL AUTO_INCREMENT, provider INT UNSIGNED NOT NULL, callback_base VARCHAR(500) NOT NULL,
  mac_key VARCHAR(32) NOT NULL,                -- name of the key in the secret file
  renderer INT UNSIGNED NOT NULL,
  PRIMARY KEY (`key`), UNIQUE KEY recipes_parts (provider, callback_base, mac_key, renderer)
) {{table}};

-- Who owns a shard, as long as its number below is its own: every write of an owner reads it under a shared lock, and a
-- new owner waits for those.
CREATE TABLE IF NOT EXISTS leases (
  shard SMALLINT UNSIGNED NOT NULL, owner VARCHAR(128) NOT NULL, epoch BIGINT UNSIGNED NOT NULL,
  node SMALLINT UNSIGNED NOT NULL, PRIMARY KEY (shard)
) {{table}};

-- Whose number in ids is whose, and until when, by the server's clock; it is free again a while after that.
CREATE TABLE IF NOT EXISTS nodes (
  node SMALLINT UNSIGNED NOT NULL, owner VARCHAR(128) NOT NULL, incarnation BIGINT UNSIGNED NOT NULL,
  expires_us BIGINT NOT NULL, roles VARCHAR(64) NOT NULL, PRIMARY KEY (node)
) {{table}};

-- What a node accepted or received for the owner of a shard: written with it, deleted when it is done.
CREATE TABLE IF NOT EXISTS inbox (
  position BIGINT UNSIGNED NOT NULL AUTO_INCREMENT, shard SMALLINT UNSIGNED NOT NULL, kind TINYINT UNSIGNED NOT NULL,
  at_us BIGINT NOT NULL, payload MEDIUMBLOB NOT NULL, PRIMARY KEY (position), KEY inbox_shard (shard, position)
) {{table}};

-- Rates that are wider than a shard: whoever wants tokens takes them here, under the row's lock. The bucket is the
-- core's (rust_core/src/budget.rs), on the server's clock.
CREATE TABLE IF NOT EXISTS budgets (
  quota BIGINT UNSIGNED NOT NULL, amount BIGINT UNSIGNED NOT NULL, burst BIGINT UNSIGNED NOT NULL,
  window_us BIGINT UNSIGNED NOT NULL, full_us BIGINT NOT NULL, rest BIGINT UNSIGNED NOT NULL,
  latest_us BIGINT NOT NULL, PRIMARY KEY (quota)
) {{table}};

-- The last transaction of each lane of a node (`engine/stores/mysql/transactions.py`): says whether a COMMIT took
-- place whose answer was lost.
CREATE TABLE IF NOT EXISTS lanes (
  node SMALLINT UNSIGNED NOT NULL, lane TINYINT UNSIGNED NOT NULL,
  run BIGINT UNSIGNED NOT NULL,                -- of the process that counts
  number BIGINT UNSIGNED NOT NULL, PRIMARY KEY (node, lane)
) {{table}};

-- Single numbers: registry_version, epoch, request_ids_pruned_to, the clocks of retention.
CREATE TABLE IF NOT EXISTS facts (
  name VARCHAR(32) NOT NULL, value BIGINT NOT NULL, PRIMARY KEY (name)
) {{table}};
"""
# Those that are always there: table, columns, values of each.
ROWS: Final = (
    ("event_slots", "slot, next_position", [f"{slot}, 1" for slot in range(EVENT_SLOTS)]),
    ("opt_out_slots", "slot", [str(slot) for slot in range(OPT_OUT_SLOTS)]),
    ("leases", "shard, owner, epoch, node", [f"{shard}, '', 0, 0" for shard in range(SHARDS)]),
    ("facts", "name, value", ["'registry_version', 1", "'epoch', 0"]),
    ("providers", "`key`, id", ["1, 'telnyx'"]),
)
TABLE: Final = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"


def upgrade() -> None:
    """Make every table that is not there, and the rows that are always there."""
    for statement in _statements(HOT.format(table=TABLE)):
        op.execute(sa.text(statement))
    _control_plane()
    for table, column, values in ROWS:
        rows = ", ".join(f"({value})" for value in values)
        first = column.partition(",")[0]
        # Constants of this file; a row that is there stays as it is.
        op.execute(sa.text(f"INSERT INTO {table} ({column}) VALUES {rows} ON DUPLICATE KEY UPDATE {first} = {first}"))  # noqa: S608


def _statements(script: str) -> list[str]:
    # Comments go first: they hold semicolons. No literal of the script holds either mark.
    bare = "\n".join(line.partition("--")[0].rstrip() for line in script.splitlines())
    return [statement.strip() for statement in bare.split(";") if statement.strip()]


def _control_plane() -> None:
    key, number = sa.BigInteger(), sa.BigInteger()
    tables = sa.MetaData()
    sa.Table(
        "tenants",
        tables,
        sa.Column("key", key, primary_key=True),
        sa.Column("id", sa.String(63), nullable=False, unique=True),
        sa.Column("display_name", sa.String(200), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("create_us", number, nullable=False),
    )
    sa.Table(
        "brands",
        tables,
        sa.Column("key", key, primary_key=True),
        sa.Column("tenant", key, sa.ForeignKey("tenants.key"), nullable=False),
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("display_name", sa.String(200), nullable=False),
        sa.Column("ein", sa.String(10), nullable=False),
        sa.Column("create_us", number, nullable=False),
        sa.UniqueConstraint("tenant", "id"),
    )
    sa.Table(
        "campaigns",
        tables,
        sa.Column("key", key, primary_key=True),
        sa.Column("tenant", key, sa.ForeignKey("tenants.key"), nullable=False),
        sa.Column("brand", key, sa.ForeignKey("brands.key"), nullable=False),
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("tcr_campaign", sa.String(32), nullable=False),
        sa.Column("use_case", sa.String(64), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("on_unknown", sa.Integer(), nullable=False),
        sa.Column("messaging_profile", sa.String(64), nullable=False),
        sa.Column("create_us", number, nullable=False),
        sa.UniqueConstraint("tenant", "id"),
    )
    sa.Table(
        "numbers",
        tables,
        # The digits are the key: a number belongs to one campaign, whoever asks.
        sa.Column("number", number, primary_key=True, autoincrement=False),
        sa.Column("campaign", key, sa.ForeignKey("campaigns.key"), nullable=False),
        sa.Column("tenant", key, sa.ForeignKey("tenants.key"), nullable=False),
        sa.Column("create_us", number, nullable=False),
        sa.Index("numbers_tenant", "tenant", "number"),
        sa.Index("numbers_campaign", "campaign"),
    )
    sa.Table(
        "api_keys",
        tables,
        sa.Column("prefix", sa.String(12), primary_key=True),
        sa.Column("tenant", key, sa.ForeignKey("tenants.key"), nullable=True),
        sa.Column("role", sa.Integer(), nullable=False),
        sa.Column("display_name", sa.String(200), nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.Column("hash_key", sa.String(32), nullable=False),
        sa.Column("create_us", number, nullable=False),
        sa.Column("expire_us", number, nullable=True),
        sa.Column("revoke_us", number, nullable=True),
        sa.Index("api_keys_tenant", "tenant", "prefix"),
    )
    sa.Table(
        "quotas",
        tables,
        # Never used twice: the ledgers of a removed quota must not count for another.
        sa.Column("key", key, primary_key=True, autoincrement=True),
        sa.Column("tenant", key, sa.ForeignKey("tenants.key"), nullable=True),
        sa.Column("scope", sa.Integer(), nullable=False),
        sa.Column("subject", number, nullable=False),
        sa.Column("carrier", sa.Integer(), nullable=False),
        sa.Column("unit", sa.Integer(), nullable=False),
        sa.Column("amount", number, nullable=False),
        sa.Column("window_us", number, nullable=False),
        sa.Column("burst", number, nullable=False),
        sa.Column("time_zone", sa.String(64), nullable=False),
        sa.Column("reserved_percent", sa.Integer(), nullable=False),
        sa.Column("reserved_class", sa.Integer(), nullable=False),
        sa.UniqueConstraint("scope", "subject", "carrier", "unit"),
        sa.Index("quotas_tenant", "tenant", "key"),
    )
    sa.Table(
        "providers",
        tables,
        sa.Column("key", key, primary_key=True),
        sa.Column("id", sa.String(63), nullable=False, unique=True),
    )
    for table in tables.tables.values():
        # As the tables above: byte by byte, whatever the database was made with.
        table.dialect_options["mysql"].update(engine="InnoDB", charset="utf8mb4", collate="utf8mb4_bin")
    connection = context.get_bind()
    for table in tables.sorted_tables:
        table.create(connection, checkfirst=True)
        # Each is a statement of its own, which a run may have ended before; the table is there then.
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            index.create(connection, checkfirst=True)
