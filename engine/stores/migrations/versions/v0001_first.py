"""The first schema: hot tables of the corridor and the control plane.

Hot tables are SQLite's, written out: STRICT, integer keys, bodies apart from the narrow state row, partial indexes for
the states that still move. Integer codes are the numbers of the proto; times are microseconds since the Unix epoch.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# States below 16 still move (16 and above are terminal), so these indexes stay as small as the backlog.
HOT: Final = """
-- The narrow row of a message; everything that changes is here.
CREATE TABLE messages (
  id INTEGER PRIMARY KEY,                    -- 64 bits, time-ordered: rows append, never scatter
  tenant INTEGER NOT NULL, campaign INTEGER NOT NULL,
  sender INTEGER NOT NULL, recipient INTEGER NOT NULL,   -- digits of the E.164 number
  class INTEGER NOT NULL, kind INTEGER NOT NULL, encoding INTEGER NOT NULL, segments INTEGER NOT NULL,
  state INTEGER NOT NULL, reason INTEGER NOT NULL,
  code TEXT NOT NULL DEFAULT '',             -- the provider's code behind the reason
  seq INTEGER NOT NULL,                      -- of the last event; guards the next write
  attempt INTEGER NOT NULL, generation INTEGER NOT NULL, counted INTEGER NOT NULL, flags INTEGER NOT NULL,
  due_us INTEGER NOT NULL, accept_us INTEGER NOT NULL, expires_us INTEGER NOT NULL, updated_us INTEGER NOT NULL,
  started_us INTEGER NOT NULL DEFAULT 0,     -- of the last attempt's intent; quotas are rebuilt from it
  epoch INTEGER NOT NULL DEFAULT 0,          -- of the owner that wrote the intent
  provider INTEGER NOT NULL DEFAULT 0, recipe INTEGER NOT NULL DEFAULT 0, provider_id TEXT,
  carrier INTEGER NOT NULL DEFAULT 0,
  crashes INTEGER NOT NULL DEFAULT 0,        -- times that processing it took the process down
  history BLOB NOT NULL                      -- the timeline, encoded
) STRICT;
-- Recovery, the sweeper, reconciliation.
CREATE INDEX messages_due ON messages(state, due_us) WHERE state < 16;
-- ListMessages.
CREATE INDEX messages_tenant ON messages(tenant, id);
-- Receipts that carry no MAC.
CREATE INDEX messages_provider_id ON messages(provider_id) WHERE state < 16 AND provider_id IS NOT NULL;

-- The submission as admitted; inserted with its message, never changed.
CREATE TABLE bodies (id INTEGER PRIMARY KEY, record BLOB NOT NULL) STRICT;

-- Idempotency; in the same transaction as the message it names.
CREATE TABLE request_ids (
  tenant INTEGER NOT NULL, request_id TEXT NOT NULL, id INTEGER NOT NULL,
  content_hash BLOB NOT NULL,                -- over the decoded fields, not over wire bytes
  PRIMARY KEY (tenant, request_id)) STRICT, WITHOUT ROWID;

-- The event log; a row may hold a whole batch of one tenant's transitions, each with its seq.
CREATE TABLE events (
  position INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, at_us INTEGER NOT NULL, events BLOB NOT NULL) STRICT;
CREATE INDEX events_tenant ON events(tenant, position);

-- Receipts that came before our own record of the send, or for an earlier generation.
CREATE TABLE early_receipts (
  position INTEGER PRIMARY KEY,
  message INTEGER NOT NULL,                  -- 0 when only the provider's id is known
  provider INTEGER NOT NULL, provider_id TEXT NOT NULL, received_us INTEGER NOT NULL, fact BLOB NOT NULL) STRICT;
CREATE INDEX early_receipts_message ON early_receipts(message) WHERE message <> 0;
CREATE INDEX early_receipts_provider_id ON early_receipts(provider, provider_id) WHERE message = 0;

-- Webhook deduplication, also against replay inside the signature's window.
CREATE TABLE webhook_events (
  position INTEGER PRIMARY KEY, provider INTEGER NOT NULL, event_id TEXT NOT NULL, received_us INTEGER NOT NULL,
  UNIQUE (provider, event_id)) STRICT;

-- Who must not be written to; a row blocks, its absence permits.
CREATE TABLE opt_outs (
  tenant INTEGER NOT NULL, recipient INTEGER NOT NULL, source INTEGER NOT NULL, create_us INTEGER NOT NULL,
  evidence TEXT NOT NULL DEFAULT '', PRIMARY KEY (tenant, recipient)) STRICT, WITHOUT ROWID;

-- The proof of every opt-out and opt-in; appended to only.
CREATE TABLE consent_log (
  position INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, recipient INTEGER NOT NULL,
  action INTEGER NOT NULL,                   -- 1 opt-out, 2 opt-out effective, 3 opt-in
  source INTEGER NOT NULL, at_us INTEGER NOT NULL, occurred_us INTEGER NOT NULL,
  evidence TEXT NOT NULL DEFAULT '') STRICT;
CREATE INDEX consent_log_recipient ON consent_log(tenant, recipient);

-- Messages that people sent to a number of ours.
CREATE TABLE inbound (
  id INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, sender INTEGER NOT NULL, recipient INTEGER NOT NULL,
  received_us INTEGER NOT NULL, provider INTEGER NOT NULL, provider_id TEXT NOT NULL, record BLOB NOT NULL) STRICT;
CREATE INDEX inbound_tenant ON inbound(tenant, id);

-- Webhooks of a type this version does not know: kept, not refused.
CREATE TABLE unknown_webhooks (
  position INTEGER PRIMARY KEY, provider INTEGER NOT NULL, event_id TEXT NOT NULL, received_us INTEGER NOT NULL,
  body BLOB NOT NULL) STRICT;

-- Daily caps: what a calendar day has spent, and what attempts without an outcome hold.
CREATE TABLE ledgers (
  quota INTEGER NOT NULL,
  day INTEGER NOT NULL,                      -- ordinal of the date in the quota's own time zone
  spent INTEGER NOT NULL, reserved INTEGER NOT NULL, PRIMARY KEY (quota, day)) STRICT, WITHOUT ROWID;

-- The carrier of a recipient, learned from provider answers.
CREATE TABLE carriers (recipient INTEGER PRIMARY KEY, carrier INTEGER NOT NULL, learned_us INTEGER NOT NULL) STRICT;

-- Everything beside the body that the bytes of a send depend on, so that a generation can be rendered again.
CREATE TABLE recipes (
  key INTEGER PRIMARY KEY, provider INTEGER NOT NULL, callback_base TEXT NOT NULL,
  mac_key TEXT NOT NULL,                     -- name of the key in the secret file
  renderer INTEGER NOT NULL, UNIQUE (provider, callback_base, mac_key, renderer)) STRICT;

-- Single numbers: registry_version, epoch, last_id, retained_from.
CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO facts (name, value) VALUES ('registry_version', 1), ('epoch', 0), ('last_id', 0), ('retained_from', 0);
"""

KEY: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NUMBER: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(characters_max: int) -> sa.types.TypeEngine[str]:
    return sa.String(characters_max).with_variant(sa.Text(), "sqlite")


def upgrade() -> None:
    """Make every table."""
    for statement in _statements(HOT):
        op.execute(sa.text(statement))
    _control_plane()
    op.execute(sa.text("INSERT INTO providers (key, id) VALUES (1, 'telnyx')"))


def _statements(script: str) -> list[str]:
    # Comments go first: they hold semicolons. No literal of the script holds either mark.
    bare = "\n".join(line.partition("--")[0].rstrip() for line in script.splitlines())
    return [statement.strip() for statement in bare.split(";") if statement.strip()]


def _control_plane() -> None:
    op.create_table(
        "tenants",
        sa.Column("key", KEY, primary_key=True),
        sa.Column("id", _text(63), nullable=False, unique=True),
        sa.Column("display_name", _text(200), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("create_us", NUMBER, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "brands",
        sa.Column("key", KEY, primary_key=True),
        sa.Column("tenant", KEY, sa.ForeignKey("tenants.key"), nullable=False),
        sa.Column("id", _text(63), nullable=False),
        sa.Column("display_name", _text(200), nullable=False),
        sa.Column("ein", _text(10), nullable=False),
        sa.Column("create_us", NUMBER, nullable=False),
        sa.UniqueConstraint("tenant", "id"),
        sqlite_strict=True,
    )
    op.create_table(
        "campaigns",
        sa.Column("key", KEY, primary_key=True),
        sa.Column("tenant", KEY, sa.ForeignKey("tenants.key"), nullable=False),
        sa.Column("brand", KEY, sa.ForeignKey("brands.key"), nullable=False),
        sa.Column("id", _text(63), nullable=False),
        sa.Column("tcr_campaign", _text(32), nullable=False),
        sa.Column("use_case", _text(64), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("on_unknown", sa.Integer(), nullable=False),
        sa.Column("messaging_profile", _text(64), nullable=False),
        sa.Column("create_us", NUMBER, nullable=False),
        sa.UniqueConstraint("tenant", "id"),
        sqlite_strict=True,
    )
    op.create_table(
        "numbers",
        # The digits are the key: a number belongs to one campaign, whoever asks.
        sa.Column("number", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("campaign", KEY, sa.ForeignKey("campaigns.key"), nullable=False),
        sa.Column("tenant", KEY, sa.ForeignKey("tenants.key"), nullable=False),
        sa.Column("create_us", NUMBER, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("numbers_tenant", "numbers", ["tenant", "number"])
    op.create_index("numbers_campaign", "numbers", ["campaign"])
    op.create_table(
        "api_keys",
        sa.Column("prefix", _text(12), primary_key=True),
        sa.Column("tenant", KEY, sa.ForeignKey("tenants.key"), nullable=True),
        sa.Column("role", sa.Integer(), nullable=False),
        sa.Column("display_name", _text(200), nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.Column("hash_key", _text(32), nullable=False),
        sa.Column("create_us", NUMBER, nullable=False),
        sa.Column("expire_us", NUMBER, nullable=True),
        sa.Column("revoke_us", NUMBER, nullable=True),
        sqlite_strict=True,
    )
    op.create_index("api_keys_tenant", "api_keys", ["tenant", "prefix"])
    op.create_table(
        "quotas",
        # Never used twice: the ledgers of a removed quota must not count for another.
        sa.Column("key", KEY, primary_key=True, autoincrement=True),
        sa.Column("tenant", KEY, sa.ForeignKey("tenants.key"), nullable=True),
        sa.Column("scope", sa.Integer(), nullable=False),
        sa.Column("subject", NUMBER, nullable=False),
        sa.Column("carrier", sa.Integer(), nullable=False),
        sa.Column("unit", sa.Integer(), nullable=False),
        sa.Column("amount", NUMBER, nullable=False),
        sa.Column("window_us", NUMBER, nullable=False),
        sa.Column("burst", NUMBER, nullable=False),
        sa.Column("time_zone", _text(64), nullable=False),
        sa.Column("reserved_percent", sa.Integer(), nullable=False),
        sa.Column("reserved_class", sa.Integer(), nullable=False),
        sa.UniqueConstraint("scope", "subject", "carrier", "unit"),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
    op.create_index("quotas_tenant", "quotas", ["tenant", "key"])
    op.create_table(
        "providers",
        sa.Column("key", KEY, primary_key=True),
        sa.Column("id", _text(63), nullable=False, unique=True),
        sqlite_strict=True,
    )
