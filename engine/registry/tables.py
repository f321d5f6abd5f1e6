"""Control-plane tables in SQLAlchemy Core, one code for every store; the migrations make them.

It runs no statement. A test compares these columns with what the migrations leave behind. `key` columns are integers
that other tables hold; `id` is the part after the slash of a resource name. Times are microseconds since the epoch.
"""

from typing import Final

import sqlalchemy as sa

METADATA: Final = sa.MetaData()
# SQLite's STRICT tables know INTEGER and TEXT only; others need the widths.
_WIDE: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(characters_max: int) -> sa.types.TypeEngine[str]:
    return sa.String(characters_max).with_variant(sa.Text(), "sqlite")


TENANTS: Final = sa.Table(
    "tenants",
    METADATA,
    sa.Column("key", _WIDE, primary_key=True),
    sa.Column("id", _text(63), nullable=False, unique=True),
    sa.Column("display_name", _text(200), nullable=False),
    sa.Column("state", sa.Integer(), nullable=False),
    sa.Column("create_us", _WIDE, nullable=False),
)

BRANDS: Final = sa.Table(
    "brands",
    METADATA,
    sa.Column("key", _WIDE, primary_key=True),
    sa.Column("tenant", _WIDE, sa.ForeignKey("tenants.key"), nullable=False),
    sa.Column("id", _text(63), nullable=False),
    sa.Column("display_name", _text(200), nullable=False),
    sa.Column("ein", _text(10), nullable=False),
    sa.Column("create_us", _WIDE, nullable=False),
    sa.UniqueConstraint("tenant", "id"),
)

CAMPAIGNS: Final = sa.Table(
    "campaigns",
    METADATA,
    sa.Column("key", _WIDE, primary_key=True),
    sa.Column("tenant", _WIDE, sa.ForeignKey("tenants.key"), nullable=False),
    sa.Column("brand", _WIDE, sa.ForeignKey("brands.key"), nullable=False),
    sa.Column("id", _text(63), nullable=False),
    sa.Column("tcr_campaign", _text(32), nullable=False),
    sa.Column("use_case", _text(64), nullable=False),
    sa.Column("state", sa.Integer(), nullable=False),
    sa.Column("on_unknown", sa.Integer(), nullable=False),
    sa.Column("messaging_profile", _text(64), nullable=False),
    sa.Column("create_us", _WIDE, nullable=False),
    sa.UniqueConstraint("tenant", "id"),
)

NUMBERS: Final = sa.Table(
    "numbers",
    METADATA,
    # Digits with the leading 1; the key, so that a number belongs to one campaign whoever asks.
    sa.Column("number", _WIDE, primary_key=True, autoincrement=False),
    sa.Column("campaign", _WIDE, sa.ForeignKey("campaigns.key"), nullable=False),
    sa.Column("tenant", _WIDE, sa.ForeignKey("tenants.key"), nullable=False),
    sa.Column("create_us", _WIDE, nullable=False),
    sa.Index("numbers_tenant", "tenant", "number"),
    sa.Index("numbers_campaign", "campaign"),
)

API_KEYS: Final = sa.Table(
    "api_keys",
    METADATA,
    sa.Column("prefix", _text(12), primary_key=True),
    # None: role ADMIN, of no tenant.
    sa.Column("tenant", _WIDE, sa.ForeignKey("tenants.key"), nullable=True),
    sa.Column("role", sa.Integer(), nullable=False),
    sa.Column("display_name", _text(200), nullable=False),
    sa.Column("hash", sa.LargeBinary(32), nullable=False),
    # Name of the secret that the hash was made with.
    sa.Column("hash_key", _text(32), nullable=False),
    sa.Column("create_us", _WIDE, nullable=False),
    sa.Column("expire_us", _WIDE, nullable=True),
    sa.Column("revoke_us", _WIDE, nullable=True),
    sa.Index("api_keys_tenant", "tenant", "prefix"),
)

QUOTAS: Final = sa.Table(
    "quotas",
    METADATA,
    sa.Column("key", _WIDE, primary_key=True),
    # None: a provider's.
    sa.Column("tenant", _WIDE, sa.ForeignKey("tenants.key"), nullable=True),
    sa.Column("scope", sa.Integer(), nullable=False),
    # Key of the subject, or a number's digits.
    sa.Column("subject", _WIDE, nullable=False),
    sa.Column("carrier", sa.Integer(), nullable=False),
    sa.Column("unit", sa.Integer(), nullable=False),
    sa.Column("amount", _WIDE, nullable=False),
    sa.Column("window_us", _WIDE, nullable=False),
    sa.Column("burst", _WIDE, nullable=False),
    # Empty but for daily ledgers.
    sa.Column("time_zone", _text(64), nullable=False),
    sa.Column("reserved_percent", sa.Integer(), nullable=False),
    sa.Column("reserved_class", sa.Integer(), nullable=False),
    sa.UniqueConstraint("scope", "subject", "carrier", "unit"),
    sa.Index("quotas_tenant", "tenant", "key"),
    sqlite_autoincrement=True,
)

PROVIDERS: Final = sa.Table(
    "providers",
    METADATA,
    sa.Column("key", _WIDE, primary_key=True),
    sa.Column("id", _text(63), nullable=False, unique=True),
)

FACTS: Final = sa.Table(
    "facts",
    METADATA,
    sa.Column("name", _text(32), primary_key=True),
    sa.Column("value", _WIDE, nullable=False),
)
