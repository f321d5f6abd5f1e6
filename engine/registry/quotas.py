"""Quotas in the store: check, set, list, remove.

Every function runs in the caller's transaction and checks no rights; it counts nothing (the core does). Every write
raises the registry's version. Refusals are `Refused`: INVALID_FIELD, NOT_FOUND.

Invariants: one quota for each (scope, subject, carrier, unit), which keeps its key while it is replaced, so that what
it has counted stays; a rate has 1 ≤ burst < amount (or burst = amount = 1); a daily ledger has a zone and its burst is
its amount.
"""

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from engine.registry.campaigns import find_campaign, find_number
from engine.registry.days import DEFAULT_TIME_ZONE, is_time_zone
from engine.registry.names import id_of, not_found, number_of, refuse
from engine.registry.records import Carrier, MessageClass, Quota, Scope, Tenant, Unit
from engine.registry.tables import BRANDS, CAMPAIGNS, PROVIDERS, QUOTAS, TENANTS
from engine.registry.tenants import find_brand
from engine.registry.version import raise_version

CARRIER_SCOPES: Final = frozenset({Scope.CAMPAIGN_CARRIER, Scope.BRAND_CARRIER_DAY})
# A trillion segments in a window is beyond any carrier, and times 10^6 still far inside 64 bits.
AMOUNT_MAX: Final = 1_000_000_000_000
# 31 days: a month is the longest period that anybody limits by.
WINDOW_MS_MAX: Final = 31 * 86_400_000
DAY_MS: Final = 86_400_000
PERCENT_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class QuotaWish:
    """A quota as its caller wants it, unchecked; zero and empty mean *by default*."""

    scope: int
    subject: str
    carrier: int
    unit: int
    amount: int
    window_ms: int
    burst: int
    time_zone: str
    reserved_percent: int
    reserved_class: int


def default_burst(amount: int) -> int:
    """A twentieth of the amount, at least 10, at most half of it, never none."""
    return min(max(10, amount // 20), max(1, amount // 2))


def set_quota(control: sa.Connection, tenant: Tenant | None, wish: QuotaWish) -> Quota:
    """Set a quota of the tenant (None: of a provider); replaces one of the same scope, subject, carrier and unit."""
    scope, unit = _scope_and_unit(wish)
    carrier = _carrier(scope, wish.carrier)
    subject = _subject(control, tenant, scope, wish.subject)
    values = {
        "tenant": tenant.key if tenant else None,
        "scope": scope,
        "subject": subject,
        "carrier": carrier,
        "unit": unit,
        **_amounts(scope, wish),
    }
    same = sa.and_(
        QUOTAS.c.scope == scope, QUOTAS.c.subject == subject, QUOTAS.c.carrier == carrier, QUOTAS.c.unit == unit
    )
    key = control.execute(sa.select(QUOTAS.c.key).where(same)).scalar()
    if key is None:
        control.execute(sa.insert(QUOTAS).values(values))
    else:
        control.execute(sa.update(QUOTAS).where(QUOTAS.c.key == key).values(values))
    raise_version(control)
    return _quota(control.execute(_rows().where(same)).one())


def list_quotas(control: sa.Connection, tenant: Tenant | None, *, after: int, rows_max: int) -> list[Quota]:
    """Quotas of the tenant (None: of providers) by key, from the one after `after` on."""
    owned = QUOTAS.c.tenant.is_(None) if tenant is None else QUOTAS.c.tenant == tenant.key
    query = _rows().where(owned, QUOTAS.c.key > after).order_by(QUOTAS.c.key).limit(rows_max)
    return [_quota(row) for row in control.execute(query)]


def delete_quota(control: sa.Connection, key: int) -> None:
    """Remove a quota, of any tenant. Its key is never used again."""
    if control.execute(sa.delete(QUOTAS).where(QUOTAS.c.key == key)).rowcount == 0:
        raise not_found()
    raise_version(control)


def _scope_and_unit(wish: QuotaWish) -> tuple[Scope, Unit]:
    try:
        scope = Scope(wish.scope)
    except ValueError:
        raise refuse("quota.scope", "choose one of the listed scopes") from None
    try:
        return scope, Unit(wish.unit)
    except ValueError:
        raise refuse("quota.unit", "choose SEGMENTS or MESSAGES") from None


def _carrier(scope: Scope, number: int) -> Carrier:
    if (scope in CARRIER_SCOPES) != (number != Carrier.NONE):
        wanted = "name the carrier" if scope in CARRIER_SCOPES else "leave it out"
        raise refuse("quota.carrier", f"{wanted}: the scope says so")
    try:
        return Carrier(number)
    except ValueError:
        raise refuse("quota.carrier", "choose one of the listed carriers") from None


def _subject(control: sa.Connection, tenant: Tenant | None, scope: Scope, name: str) -> int:
    """Key of the subject, which exists and is the tenant's."""
    field = "quota.subject"
    if scope is Scope.PROVIDER:
        if tenant is not None:
            raise refuse("tenant", "leave it empty: a provider's quota is no tenant's")
        provider = id_of(name, "providers", field)
        key = control.execute(sa.select(PROVIDERS.c.key).where(PROVIDERS.c.id == provider)).scalar()
        if key is None:
            raise not_found()
        return int(key)
    if tenant is None:
        raise refuse("tenant", "name the tenant that the subject belongs to")
    if scope is Scope.NUMBER:
        return find_number(control, tenant, number_of(name, field)).digits
    if scope is Scope.BRAND_CARRIER_DAY:
        return find_brand(control, tenant, id_of(name, "brands", field)).key
    if scope is Scope.TENANT:
        if id_of(name, "tenants", field) != tenant.id:
            raise not_found()
        return tenant.key
    return find_campaign(control, tenant, id_of(name, "campaigns", field)).key


def _amounts(scope: Scope, wish: QuotaWish) -> dict[str, int | str]:
    if not 1 <= wish.amount <= AMOUNT_MAX:
        raise refuse("quota.amount", f"give 1 to {AMOUNT_MAX:,}")
    if scope is Scope.BRAND_CARRIER_DAY:
        return _ledger(wish)
    for field, value in (("time_zone", wish.time_zone), ("reserved_percent", wish.reserved_percent)):
        if value:
            raise refuse(f"quota.{field}", "leave it out: only a daily quota has one")
    if wish.reserved_class:
        raise refuse("quota.reserved_class", "leave it out: only a daily quota has one")
    if not 1 <= wish.window_ms <= WINDOW_MS_MAX:
        raise refuse("quota.window_ms", f"give 1 to {WINDOW_MS_MAX:,} milliseconds")
    burst = wish.burst or default_burst(wish.amount)
    # What is not burst is the rate: with none left the quota would open once and never again.
    if not 1 <= burst <= max(1, wish.amount - 1):
        raise refuse("quota.burst", "give 1 to the amount less one, or 0 for the default")
    return {
        "amount": wish.amount,
        "window_us": wish.window_ms * 1000,
        "burst": burst,
        "time_zone": "",
        "reserved_percent": 0,
        "reserved_class": MessageClass.NONE,
    }


def _ledger(wish: QuotaWish) -> dict[str, int | str]:
    if wish.window_ms not in {0, DAY_MS}:
        raise refuse("quota.window_ms", "leave it out: a daily quota's window is the calendar day")
    if wish.burst not in {0, wish.amount}:
        raise refuse("quota.burst", "leave it out: a daily quota may be spent at once")
    zone = wish.time_zone or DEFAULT_TIME_ZONE
    if not is_time_zone(zone):
        raise refuse("quota.time_zone", f"give an IANA zone, such as {DEFAULT_TIME_ZONE}")
    if not 0 <= wish.reserved_percent <= PERCENT_MAX:
        raise refuse("quota.reserved_percent", "give 0 to 100")
    reserving = {MessageClass.CRITICAL, MessageClass.TRANSACTIONAL}
    if wish.reserved_percent and wish.reserved_class not in reserving:
        raise refuse("quota.reserved_class", "choose CRITICAL or TRANSACTIONAL: BULK would reserve nothing")
    if not wish.reserved_percent and wish.reserved_class:
        raise refuse("quota.reserved_class", "leave it out where nothing is reserved")
    return {
        "amount": wish.amount,
        "window_us": DAY_MS * 1000,
        "burst": wish.amount,
        "time_zone": zone,
        "reserved_percent": wish.reserved_percent,
        "reserved_class": wish.reserved_class,
    }


def _rows() -> sa.Select[tuple[object, ...]]:
    """Quotas with the ids of whatever their subjects are."""
    campaign_scopes = (Scope.CAMPAIGN, Scope.CAMPAIGN_CARRIER)
    joined = (
        QUOTAS.outerjoin(CAMPAIGNS, sa.and_(QUOTAS.c.scope.in_(campaign_scopes), CAMPAIGNS.c.key == QUOTAS.c.subject))
        .outerjoin(BRANDS, sa.and_(QUOTAS.c.scope == Scope.BRAND_CARRIER_DAY, BRANDS.c.key == QUOTAS.c.subject))
        .outerjoin(PROVIDERS, sa.and_(QUOTAS.c.scope == Scope.PROVIDER, PROVIDERS.c.key == QUOTAS.c.subject))
        .outerjoin(TENANTS, sa.and_(QUOTAS.c.scope == Scope.TENANT, TENANTS.c.key == QUOTAS.c.subject))
    )
    return sa.select(
        QUOTAS,
        CAMPAIGNS.c.id.label("campaign_id"),
        BRANDS.c.id.label("brand_id"),
        PROVIDERS.c.id.label("provider_id"),
        TENANTS.c.id.label("tenant_id"),
    ).select_from(joined)


def _quota(row: sa.Row[tuple[object, ...]]) -> Quota:
    scope = Scope(row.scope)
    subject = {
        Scope.NUMBER: f"numbers/+{row.subject}",
        Scope.CAMPAIGN: f"campaigns/{row.campaign_id}",
        Scope.CAMPAIGN_CARRIER: f"campaigns/{row.campaign_id}",
        Scope.BRAND_CARRIER_DAY: f"brands/{row.brand_id}",
        Scope.PROVIDER: f"providers/{row.provider_id}",
        Scope.TENANT: f"tenants/{row.tenant_id}",
    }[scope]
    return Quota(
        row.key,
        scope,
        subject,
        Carrier(row.carrier),
        Unit(row.unit),
        row.amount,
        row.window_us,
        row.burst,
        row.time_zone,
        row.reserved_percent,
        MessageClass(row.reserved_class),
    )
