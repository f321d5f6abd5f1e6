"""The registry's records as messages of the contract, and the requests' numbers and times back.

It looks nothing up and checks no rights; a value that is none is refused with its field.
"""

from typing import Final, cast

from google.protobuf import timestamp_pb2

from engine.registry.names import refuse
from engine.registry.quotas import QuotaWish
from engine.registry.records import ApiKey, Brand, Campaign, CampaignState, Number, OnUnknown, Quota, Role, Tenant
from engine.registry.records import TenantState as State
from longwave.v1 import messaging_pb2, registry_pb2

SECOND_US: Final = 1_000_000
MICROSECOND_NS: Final = 1000
MILLISECOND_US: Final = 1000
# 9999-12-31T23:59:59Z, the last second of a google.protobuf.Timestamp.
TIMESTAMP_S_MAX: Final = 253_402_300_799


def tenant_message(tenant: Tenant) -> registry_pb2.Tenant:
    """A tenant."""
    return registry_pb2.Tenant(
        name=f"tenants/{tenant.id}",
        display_name=tenant.display_name,
        state=cast("registry_pb2.TenantState.ValueType", int(tenant.state)),
        create_time=_timestamp(tenant.create_us),
    )


def brand_message(tenant: Tenant, brand: Brand) -> registry_pb2.Brand:
    """A brand of this tenant."""
    return registry_pb2.Brand(
        name=f"brands/{brand.id}",
        tenant=f"tenants/{tenant.id}",
        display_name=brand.display_name,
        ein=brand.ein,
        create_time=_timestamp(brand.create_us),
    )


def campaign_message(tenant: Tenant, campaign: Campaign) -> registry_pb2.Campaign:
    """A campaign of this tenant."""
    return registry_pb2.Campaign(
        name=f"campaigns/{campaign.id}",
        brand=f"brands/{campaign.brand}",
        tcr_campaign=campaign.tcr_campaign,
        use_case=campaign.use_case,
        state=cast("registry_pb2.CampaignState.ValueType", int(campaign.state)),
        on_unknown=cast("registry_pb2.OnUnknown.ValueType", int(campaign.on_unknown)),
        messaging_profile=campaign.messaging_profile,
        create_time=_timestamp(campaign.create_us),
        tenant=f"tenants/{tenant.id}",
    )


def number_message(tenant: Tenant, number: Number) -> registry_pb2.Number:
    """A number of this tenant."""
    return registry_pb2.Number(
        name=f"numbers/+{number.digits}",
        campaign=f"campaigns/{number.campaign}",
        create_time=_timestamp(number.create_us),
        tenant=f"tenants/{tenant.id}",
    )


def api_key_message(key: ApiKey) -> registry_pb2.ApiKey:
    """A key without its secret."""
    return registry_pb2.ApiKey(
        name=f"apiKeys/{key.prefix}",
        tenant=f"tenants/{key.tenant}" if key.tenant else "",
        role=cast("registry_pb2.Role.ValueType", int(key.role)),
        display_name=key.display_name,
        create_time=_timestamp(key.create_us),
        expire_time=None if key.expire_us is None else _timestamp(key.expire_us),
        revoke_time=None if key.revoke_us is None else _timestamp(key.revoke_us),
    )


def quota_message(quota: Quota) -> registry_pb2.Quota:
    """A quota as it is in force, defaults filled in."""
    return registry_pb2.Quota(
        name=f"quotas/{quota.key}",
        scope=cast("registry_pb2.QuotaScope.ValueType", int(quota.scope)),
        subject=quota.subject,
        carrier=cast("registry_pb2.Carrier.ValueType", int(quota.carrier)),
        unit=cast("registry_pb2.QuotaUnit.ValueType", int(quota.unit)),
        amount=quota.amount,
        window_ms=quota.window_us // MILLISECOND_US,
        burst=quota.burst,
        time_zone=quota.time_zone,
        reserved_percent=quota.reserved_percent,
        reserved_class=cast("messaging_pb2.MessageClass.ValueType", int(quota.reserved_class)),
    )


def quota_wish(quota: registry_pb2.Quota) -> QuotaWish:
    """What a caller asks for, unchecked."""
    return QuotaWish(
        scope=quota.scope,
        subject=quota.subject,
        carrier=quota.carrier,
        unit=quota.unit,
        amount=quota.amount,
        window_ms=quota.window_ms,
        burst=quota.burst,
        time_zone=quota.time_zone,
        reserved_percent=quota.reserved_percent,
        reserved_class=quota.reserved_class,
    )


def tenant_state(number: int) -> State:
    """The state to take. Raises Refused."""
    try:
        return State(number)
    except ValueError:
        raise refuse("state", "choose ACTIVE or SUSPENDED") from None


def campaign_state(number: int) -> CampaignState | None:
    """The state to take; None to leave it. Raises Refused."""
    try:
        return CampaignState(number) if number else None
    except ValueError:
        raise refuse("state", "choose ACTIVE, PAUSED or STOPPED") from None


def on_unknown(number: int) -> OnUnknown:
    """The policy; 0 is by class. Raises Refused."""
    try:
        return OnUnknown(number)
    except ValueError:
        raise refuse("on_unknown", "choose RESEND or UNRESOLVED, or leave it out") from None


def role_of(number: int) -> Role:
    """The role of a new key. Raises Refused."""
    try:
        return Role(number)
    except ValueError:
        raise refuse("role", "choose TENANT or ADMIN") from None


def micros_of(timestamp: timestamp_pb2.Timestamp, field: str) -> int:
    """Microseconds since the epoch, rounded down. Raises Refused for what is no time."""
    if not (0 <= timestamp.seconds <= TIMESTAMP_S_MAX and 0 <= timestamp.nanos < SECOND_US * MICROSECOND_NS):
        raise refuse(field, "give a time between 1970 and 9999")
    return timestamp.seconds * SECOND_US + timestamp.nanos // MICROSECOND_NS


def _timestamp(at_us: int) -> timestamp_pb2.Timestamp:
    return timestamp_pb2.Timestamp(seconds=at_us // SECOND_US, nanos=at_us % SECOND_US * MICROSECOND_NS)
