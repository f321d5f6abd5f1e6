"""The nouns of the registry as plain frozen records, and their numbered states.

They hold what a row holds, with `id`s of what they point at; they check nothing. The numbers are the proto's and the
core's (a test compares them).
"""

from dataclasses import dataclass
from enum import IntEnum


class TenantState(IntEnum):
    """May a tenant send."""

    ACTIVE = 1
    SUSPENDED = 2


class CampaignState(IntEnum):
    """May a campaign send."""

    ACTIVE = 1
    PAUSED = 2
    STOPPED = 3


class OnUnknown(IntEnum):
    """What to do with an attempt whose outcome stays unknown."""

    BY_CLASS = 0
    RESEND = 1
    UNRESOLVED = 2


class Role(IntEnum):
    """What a key may do."""

    TENANT = 1
    ADMIN = 2


class Scope(IntEnum):
    """What a quota counts by."""

    NUMBER = 1
    CAMPAIGN = 2
    CAMPAIGN_CARRIER = 3
    BRAND_CARRIER_DAY = 4
    PROVIDER = 5
    TENANT = 6


class Unit(IntEnum):
    """What a quota counts."""

    SEGMENTS = 1
    MESSAGES = 2


class Carrier(IntEnum):
    """A recipient's carrier as quotas know it; 0 where none is meant."""

    NONE = 0
    ATT = 1
    TMOBILE = 2
    VERIZON = 3
    USCELLULAR = 4
    OTHER = 5


class MessageClass(IntEnum):
    """How urgent a message is; 0 where none is meant."""

    NONE = 0
    CRITICAL = 1
    TRANSACTIONAL = 2
    BULK = 3


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer."""

    key: int
    id: str
    display_name: str
    state: TenantState
    create_us: int


@dataclass(frozen=True, slots=True)
class Brand:
    """A business as registered with TCR."""

    key: int
    id: str
    display_name: str
    ein: str
    create_us: int


@dataclass(frozen=True, slots=True)
class Campaign:
    """A use case of a brand."""

    key: int
    id: str
    brand: str
    tcr_campaign: str
    use_case: str
    state: CampaignState
    on_unknown: OnUnknown
    messaging_profile: str
    create_us: int


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a campaign; `digits` with the leading 1."""

    digits: int
    campaign: str
    create_us: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A credential without its secret; `tenant` is an id, empty for ADMIN."""

    prefix: str
    tenant: str
    role: Role
    display_name: str
    create_us: int
    expire_us: int | None
    revoke_us: int | None


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit; `subject` is a resource name, `window_us` a day for a daily ledger."""

    key: int
    scope: Scope
    subject: str
    carrier: Carrier
    unit: Unit
    amount: int
    window_us: int
    burst: int
    time_zone: str
    reserved_percent: int
    reserved_class: MessageClass
