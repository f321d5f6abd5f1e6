"""Campaigns and their numbers in the store: make, find, list, change, take away.

Every function runs in the caller's transaction and checks no rights. Every write raises the registry's version.
Refusals are `Refused`: INVALID_FIELD, ALREADY_EXISTS, NOT_FOUND.
"""

import sqlalchemy as sa

from engine.registry.names import (
    PROFILE_CHARACTERS_MAX,
    TCR_CAMPAIGN_FORM,
    USE_CASE_CHARACTERS_MAX,
    for_people,
    new_id,
    not_found,
    refuse,
)
from engine.registry.records import Brand, Campaign, CampaignState, Number, OnUnknown, Scope, Tenant
from engine.registry.tables import BRANDS, CAMPAIGNS, NUMBERS, QUOTAS
from engine.registry.tenants import already_exists
from engine.registry.version import raise_version

_CAMPAIGN_ROWS = sa.select(CAMPAIGNS, BRANDS.c.id.label("brand_id")).join_from(
    CAMPAIGNS, BRANDS, CAMPAIGNS.c.brand == BRANDS.c.key
)
_NUMBER_ROWS = sa.select(NUMBERS, CAMPAIGNS.c.id.label("campaign_id")).join_from(
    NUMBERS, CAMPAIGNS, NUMBERS.c.campaign == CAMPAIGNS.c.key
)


def create_campaign(
    control: sa.Connection,
    tenant: Tenant,
    brand: Brand,
    campaign_id: str,
    *,
    tcr_campaign: str,
    use_case: str,
    on_unknown: OnUnknown,
    messaging_profile: str,
    now_us: int,
) -> Campaign:
    """Make an active campaign of the tenant's brand; `tcr_campaign` is empty until it is registered."""
    new_id(campaign_id, "campaign_id")
    if tcr_campaign and not TCR_CAMPAIGN_FORM.fullmatch(tcr_campaign):
        raise refuse("tcr_campaign", "give TCR's id, C and 1 to 31 capital letters and digits, or leave it empty")
    for_people(use_case, USE_CASE_CHARACTERS_MAX, "use_case")
    for_people(messaging_profile, PROFILE_CHARACTERS_MAX, "messaging_profile")
    same = sa.select(CAMPAIGNS.c.key).where(CAMPAIGNS.c.tenant == tenant.key, CAMPAIGNS.c.id == campaign_id)
    if control.execute(same).first():
        raise already_exists("campaign_id", "a campaign of this id")
    values = {
        "tenant": tenant.key,
        "brand": brand.key,
        "id": campaign_id,
        "tcr_campaign": tcr_campaign,
        "use_case": use_case,
        "state": CampaignState.ACTIVE,
        "on_unknown": on_unknown,
        "messaging_profile": messaging_profile,
        "create_us": now_us,
    }
    control.execute(sa.insert(CAMPAIGNS).values(values))
    raise_version(control)
    return find_campaign(control, tenant, campaign_id)


def find_campaign(control: sa.Connection, tenant: Tenant, campaign_id: str) -> Campaign:
    """The tenant's campaign of this id."""
    query = _CAMPAIGN_ROWS.where(CAMPAIGNS.c.tenant == tenant.key, CAMPAIGNS.c.id == campaign_id)
    row = control.execute(query).first()
    if row is None:
        raise not_found()
    return _campaign(row)


def list_campaigns(control: sa.Connection, tenant: Tenant, *, after: str, rows_max: int) -> list[Campaign]:
    """The tenant's campaigns by id, from the one after `after` on."""
    query = (
        _CAMPAIGN_ROWS.where(CAMPAIGNS.c.tenant == tenant.key, CAMPAIGNS.c.id > after)
        .order_by(CAMPAIGNS.c.id)
        .limit(rows_max)
    )
    return [_campaign(row) for row in control.execute(query)]


def update_campaign(
    control: sa.Connection,
    tenant: Tenant,
    campaign: Campaign,
    *,
    state: CampaignState | None = None,
    on_unknown: OnUnknown | None = None,
) -> Campaign:
    """Change what is given; None stays."""
    values: dict[str, int] = {}
    if state is not None:
        values["state"] = state
    if on_unknown is not None:
        values["on_unknown"] = on_unknown
    if values:
        control.execute(sa.update(CAMPAIGNS).where(CAMPAIGNS.c.key == campaign.key).values(values))
        raise_version(control)
    return find_campaign(control, tenant, campaign.id)


def create_number(control: sa.Connection, tenant: Tenant, campaign: Campaign, digits: int, *, now_us: int) -> Number:
    """Assign a number to the campaign. One answer refuses it wherever it is assigned, here or at another tenant."""
    if control.execute(sa.select(NUMBERS.c.number).where(NUMBERS.c.number == digits)).first():
        raise already_exists("number", "an assignment of this number")
    values = {"number": digits, "campaign": campaign.key, "tenant": tenant.key, "create_us": now_us}
    control.execute(sa.insert(NUMBERS).values(values))
    raise_version(control)
    return find_number(control, tenant, digits)


def find_number(control: sa.Connection, tenant: Tenant, digits: int) -> Number:
    """The tenant's number of these digits."""
    row = control.execute(_NUMBER_ROWS.where(NUMBERS.c.tenant == tenant.key, NUMBERS.c.number == digits)).first()
    if row is None:
        raise not_found()
    return _number(row)


def list_numbers(control: sa.Connection, tenant: Tenant, *, after: int, rows_max: int) -> list[Number]:
    """The tenant's numbers by digits, from the one after `after` on."""
    query = (
        _NUMBER_ROWS.where(NUMBERS.c.tenant == tenant.key, NUMBERS.c.number > after)
        .order_by(NUMBERS.c.number)
        .limit(rows_max)
    )
    return [_number(row) for row in control.execute(query)]


def delete_number(control: sa.Connection, tenant: Tenant, digits: int) -> None:
    """Take a number away, with its quotas: its next owner's traffic is not ours to limit."""
    find_number(control, tenant, digits)
    control.execute(sa.delete(NUMBERS).where(NUMBERS.c.number == digits))
    control.execute(sa.delete(QUOTAS).where(QUOTAS.c.scope == Scope.NUMBER, QUOTAS.c.subject == digits))
    raise_version(control)


def _campaign(row: sa.Row[tuple[object, ...]]) -> Campaign:
    return Campaign(
        row.key,
        row.id,
        row.brand_id,
        row.tcr_campaign,
        row.use_case,
        CampaignState(row.state),
        OnUnknown(row.on_unknown),
        row.messaging_profile,
        row.create_us,
    )


def _number(row: sa.Row[tuple[object, ...]]) -> Number:
    return Number(row.number, row.campaign_id, row.create_us)
