"""The demo's sample of a registry: a tenant with a brand, three campaigns, their numbers and quotas.

It is made through the registry's RPCs like any other, and found as it is by the next run.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from longwave.client import LongwaveError, Registry
from longwave.v1 import registry_pb2 as r
from longwave.v1 import verdict_pb2

TENANT: Final = "tenants/demo"
BRAND: Final = "brands/harbour"
# Campaign, use case, what becomes of attempts of unknown outcome, its numbers.
CAMPAIGNS: Final = (
    ("otp", "2FA", r.ON_UNKNOWN_RESEND, ("+12025550190", "+12025550191")),
    ("notices", "ACCOUNT_NOTIFICATION", r.ON_UNKNOWN_UNSPECIFIED, ("+12025550192", "+12025550193")),
    ("marketing", "MARKETING", r.ON_UNKNOWN_UNRESOLVED, ("+12025550194", "+12025550195")),
)
# Real caps are far lower (AT&T's best class takes 4,500 a minute), and 28,000 texts of one campaign would take most of
# an hour. The simulated carrier has no caps unless told to, so one campaign may send 30,000 segments a minute: less the
# burst of a twentieth, 475 a second, which is 28,000 texts of 1.2 segments in 71 s. What lies above a campaign
# (account, tenant) lets all three go at once; what lies below (number, carrier) is as wide as the campaign, because a
# recipient of unknown carrier counts against every one of them.
PER_MINUTE: Final = 30_000
# The day's cap of T-Mobile's highest tier is 200,000; times ten, so that a day of trying does not end at noon.
PER_DAY: Final = 2_000_000
MINUTE_MS: Final = 60_000


def make(registry: Registry) -> None:
    """Make what is missing of the sample."""
    _once(lambda: registry.create_tenant(r.CreateTenantRequest(tenant_id="demo", display_name="Demonstration")))
    _once(
        lambda: registry.create_brand(
            r.CreateBrandRequest(tenant=TENANT, brand_id="harbour", display_name="Harbour Goods LLC", ein="12-3456789")
        )
    )
    for position, (campaign, use_case, on_unknown, numbers) in enumerate(CAMPAIGNS, 1):
        request = r.CreateCampaignRequest(
            tenant=TENANT,
            brand=BRAND,
            campaign_id=campaign,
            tcr_campaign=f"CDEMO{position}",
            use_case=use_case,
            on_unknown=on_unknown,
        )
        _once(partial(registry.create_campaign, request))
        for number in numbers:
            wish = r.CreateNumberRequest(tenant=TENANT, campaign=f"campaigns/{campaign}", number=number)
            _once(partial(registry.create_number, wish))
    for quota in quotas():
        tenant = "" if quota.scope == r.QUOTA_SCOPE_PROVIDER else TENANT
        registry.set_quota(r.SetQuotaRequest(tenant=tenant, quota=quota))


def make_tenant_key(registry: Registry) -> str:
    """A key to send with: a secret."""
    request = r.CreateApiKeyRequest(tenant=TENANT, role=r.ROLE_TENANT, display_name="demo.env")
    return registry.create_api_key(request).secret


def quotas() -> list[r.Quota]:
    """One of each kind, all wide."""
    wide = PER_MINUTE * len(CAMPAIGNS)
    made = [
        _per_minute(r.QUOTA_SCOPE_PROVIDER, "providers/telnyx", wide),
        _per_minute(r.QUOTA_SCOPE_TENANT, TENANT, wide),
        r.Quota(
            scope=r.QUOTA_SCOPE_BRAND_CARRIER_DAY,
            subject=BRAND,
            carrier=r.CARRIER_TMOBILE,
            unit=r.QUOTA_UNIT_SEGMENTS,
            amount=PER_DAY,
        ),
    ]
    for campaign, _, _, numbers in CAMPAIGNS:
        name = f"campaigns/{campaign}"
        made.append(_per_minute(r.QUOTA_SCOPE_CAMPAIGN, name, PER_MINUTE))
        made.append(_per_minute(r.QUOTA_SCOPE_CAMPAIGN_CARRIER, name, PER_MINUTE, r.CARRIER_ATT))
        made += [_per_minute(r.QUOTA_SCOPE_NUMBER, f"numbers/{number}", PER_MINUTE) for number in numbers]
    return made


def _per_minute(
    scope: "r.QuotaScope.ValueType",
    subject: str,
    amount: int,
    carrier: "r.Carrier.ValueType" = r.CARRIER_UNSPECIFIED,
) -> r.Quota:
    return r.Quota(
        scope=scope,
        subject=subject,
        carrier=carrier,
        unit=r.QUOTA_UNIT_SEGMENTS,
        amount=amount,
        window_ms=MINUTE_MS,
    )


def _once(create: Callable[[], object]) -> None:
    try:
        create()
    except LongwaveError as error:
        if error.verdict != verdict_pb2.VERDICT_ALREADY_EXISTS:
            raise
