"""The whole registry as plain tuples, to build the core's frozen picture from.

It builds no picture and follows no version: who holds one compares `version` at least every 2 s.

Tuples have the fields of `rust_core/src/registry.rs`, in its order, with its numbers.
"""

from collections import defaultdict
from dataclasses import dataclass

import sqlalchemy as sa

from engine.registry.records import TenantState
from engine.registry.tables import CAMPAIGNS, NUMBERS, PROVIDERS, QUOTAS, TENANTS
from engine.registry.version import read_version

TenantRow = tuple[int, bool]
CampaignRow = tuple[int, int, int, str, int, int, str, list[int]]
QuotaRow = tuple[int, int, int, int, int, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class RegistryRows:
    """One consistent reading of the registry."""

    version: int
    """Of the registry in the store."""
    tenants: list[TenantRow]
    """(key, active)."""
    campaigns: list[CampaignRow]
    """(key, tenant, brand, id, state, on_unknown, messaging_profile, digits of its numbers ascending)."""
    quotas: list[QuotaRow]
    """(key, scope, subject, carrier, unit, amount, window_us, burst, reserved_percent, reserved_class)."""
    time_zones: list[tuple[int, str]]
    """(quota, IANA zone) of every daily ledger, for `days.day_of`."""
    tenant_ids: list[tuple[int, str]]
    """(key, the part after `tenants/`)."""
    providers: list[tuple[int, str]]
    """(key, the part after `providers/`)."""


def snapshot(control: sa.Connection) -> RegistryRows:
    """Read everything, in the caller's transaction."""
    numbers: defaultdict[int, list[int]] = defaultdict(list)
    for campaign, number in control.execute(sa.select(NUMBERS.c.campaign, NUMBERS.c.number).order_by(NUMBERS.c.number)):
        numbers[campaign].append(number)
    tenants = control.execute(sa.select(TENANTS.c.key, TENANTS.c.id, TENANTS.c.state).order_by(TENANTS.c.key)).all()
    campaigns = control.execute(
        sa.select(
            CAMPAIGNS.c.key,
            CAMPAIGNS.c.tenant,
            CAMPAIGNS.c.brand,
            CAMPAIGNS.c.id,
            CAMPAIGNS.c.state,
            CAMPAIGNS.c.on_unknown,
            CAMPAIGNS.c.messaging_profile,
        ).order_by(CAMPAIGNS.c.key)
    )
    quotas = control.execute(
        sa.select(
            QUOTAS.c.key,
            QUOTAS.c.scope,
            QUOTAS.c.subject,
            QUOTAS.c.carrier,
            QUOTAS.c.unit,
            QUOTAS.c.amount,
            QUOTAS.c.window_us,
            QUOTAS.c.burst,
            QUOTAS.c.reserved_percent,
            QUOTAS.c.reserved_class,
        ).order_by(QUOTAS.c.key)
    )
    zones = sa.select(QUOTAS.c.key, QUOTAS.c.time_zone).where(QUOTAS.c.time_zone != "").order_by(QUOTAS.c.key)
    providers = sa.select(PROVIDERS.c.key, PROVIDERS.c.id).order_by(PROVIDERS.c.key)
    return RegistryRows(
        version=read_version(control),
        tenants=[(key, state == TenantState.ACTIVE) for key, _, state in tenants],
        campaigns=[(*row, numbers[row[0]]) for row in campaigns],
        quotas=[tuple(row) for row in quotas],
        time_zones=[(key, zone) for key, zone in control.execute(zones)],
        tenant_ids=[(key, id_) for key, id_, _ in tenants],
        providers=[(key, id_) for key, id_ in control.execute(providers)],
    )


def ensure_provider(control: sa.Connection, provider: str) -> int:
    """Key of the provider of this id, which is made when there is none; it stays for good."""
    find = sa.select(PROVIDERS.c.key).where(PROVIDERS.c.id == provider)
    key = control.execute(find).scalar()
    if key is None:
        control.execute(sa.insert(PROVIDERS).values(id=provider))
        key = control.execute(find).scalar_one()
    return int(key)
