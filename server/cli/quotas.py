"""`longwave quota`: limits that are never exceeded in any window, set in the words of the carriers' rules.

It calls the registry and shows what comes back. What a quota counts by follows from what it is set for: a number, a
campaign, a campaign at one carrier, a brand's day at one carrier, a provider account, or else the whole tenant.
"""

from collections.abc import Callable
from typing import Annotated, Final, cast

import typer

from longwave.v1 import messaging_pb2 as m
from longwave.v1 import registry_pb2 as r
from server.cli import output
from server.cli.connect import client
from server.cli.failure import usage
from server.cli.names import duration_ms, enum_name, resource, short
from server.cli.options import choices, one_of, reader
from server.cli.output import Json
from server.cli.records import PAGE_RECORDS, TenantOption, pages, show, show_all, tenant_name

group = typer.Typer(
    no_args_is_help=True, help="Quotas: limits per number, campaign, carrier, brand and day, provider, tenant."
)

WINDOW_MS: Final = {"second": 1000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000}


def window_ms(text: str) -> int:
    """Milliseconds of `minute` and its like, or of a duration. Raises ValueError."""
    try:
        return WINDOW_MS.get(text.strip().lower()) or duration_ms(text)
    except ValueError:
        message = f"{text!r} is no window: write second, minute, hour, day, or a duration such as 90s"
        raise ValueError(message) from None


def per(quota: r.Quota) -> str:
    """The window in words."""
    if quota.scope == r.QUOTA_SCOPE_BRAND_CARRIER_DAY:
        return f"day of {quota.time_zone}"
    names = {milliseconds: name for name, milliseconds in WINDOW_MS.items()}
    return names.get(quota.window_ms, f"{quota.window_ms / 1000:g} s")


def _reserve(quota: r.Quota) -> str:
    if not quota.reserved_percent:
        return ""
    return f"{quota.reserved_percent} % up to {enum_name(m.MessageClass.DESCRIPTOR, quota.reserved_class)}"


COLUMNS: Final[dict[str, Callable[[r.Quota], str]]] = {
    "quota": lambda q: short(q.name),
    "scope": lambda q: enum_name(r.QuotaScope.DESCRIPTOR, q.scope),
    "subject": lambda q: q.subject,
    "carrier": lambda q: enum_name(r.Carrier.DESCRIPTOR, q.carrier),
    "amount": lambda q: f"{q.amount:,}",
    "unit": lambda q: enum_name(r.QuotaUnit.DESCRIPTOR, q.unit),
    "per": per,
    "burst": lambda q: f"{q.burst:,}" if q.burst else "",
    "reserved": _reserve,
}


@group.command("set")
def set_quota(
    context: typer.Context,
    *,
    amount: Annotated[int, typer.Option(min=1, help="So many per window.")],
    window: Annotated[
        int, typer.Option("--per", parser=reader(window_ms), metavar="second|minute|hour|day|90s", help="The window.")
    ],
    unit: Annotated[
        int,
        typer.Option(
            parser=one_of(r.QuotaUnit.DESCRIPTOR), metavar=choices(r.QuotaUnit.DESCRIPTOR), help="What is counted."
        ),
    ],
    tenant: TenantOption = "",
    number: Annotated[str, typer.Option(metavar="NUMBER", help="For this number.")] = "",
    campaign: Annotated[str, typer.Option(metavar="CAMPAIGN", help="For this campaign.")] = "",
    brand: Annotated[str, typer.Option(metavar="BRAND", help="For this brand's calendar day at --carrier.")] = "",
    provider: Annotated[str, typer.Option(metavar="PROVIDER", help="For this provider account, such as telnyx.")] = "",
    carrier: Annotated[
        int,
        typer.Option(
            parser=one_of(r.Carrier.DESCRIPTOR),
            metavar=choices(r.Carrier.DESCRIPTOR),
            help="Only at this carrier; with --campaign or --brand.",
        ),
    ] = 0,
    burst: Annotated[int, typer.Option(min=0, help="So many at once; 0: a twentieth of the amount.")] = 0,
    time_zone: Annotated[str, typer.Option(help="Of a brand's day; America/Los_Angeles unless given.")] = "",
    reserve_percent: Annotated[int, typer.Option(min=0, max=100, help="Share of a brand's day kept back.")] = 0,
    reserve_class: Annotated[
        int,
        typer.Option(
            parser=one_of(m.MessageClass.DESCRIPTOR),
            metavar=choices(m.MessageClass.DESCRIPTOR),
            help="The lowest class that may use that share.",
        ),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Set a quota; replaces one for the same thing, carrier and unit.

    Without --number, --campaign, --brand or --provider it is for the whole tenant.
    """
    scope, subject = _scope_and_subject(
        tenant, number=number, campaign=campaign, brand=brand, provider=provider, carrier=carrier
    )
    if scope == r.QUOTA_SCOPE_BRAND_CARRIER_DAY and window != WINDOW_MS["day"]:
        raise usage("a brand's quota at a carrier counts calendar days: use --per day")
    quota = r.Quota(
        scope=scope,
        subject=subject,
        carrier=cast("r.Carrier.ValueType", carrier),
        unit=cast("r.QuotaUnit.ValueType", unit),
        amount=amount,
        window_ms=window,
        burst=burst,
        time_zone=time_zone,
        reserved_percent=reserve_percent,
        reserved_class=cast("m.MessageClass.ValueType", reserve_class),
    )
    owner = "" if provider else tenant_name(tenant)
    with client(context) as c:
        show(c.registry.set_quota(r.SetQuotaRequest(tenant=owner, quota=quota)).quota, COLUMNS, as_json=as_json)


def _scope_and_subject(
    tenant: str, *, number: str, campaign: str, brand: str, provider: str, carrier: int
) -> "tuple[r.QuotaScope.ValueType, str]":
    given = [name for name in (number, campaign, brand, provider) if name]
    if len(given) > 1:
        raise usage("a quota is for one thing: give one of --number, --campaign, --brand, --provider")
    if not provider and not tenant:
        raise usage("say whose: --tenant TENANT (or --provider for a provider account)")
    if provider and tenant:
        raise usage("a provider account is no tenant's: leave --tenant out")
    if bool(carrier) and not (campaign or brand):
        raise usage("--carrier goes with --campaign or --brand")
    if number:
        return r.QUOTA_SCOPE_NUMBER, resource("numbers", number)
    if campaign:
        return (
            r.QUOTA_SCOPE_CAMPAIGN_CARRIER if carrier else r.QUOTA_SCOPE_CAMPAIGN,
            resource("campaigns", campaign),
        )
    if brand:
        if not carrier:
            raise usage("a brand's quota counts one carrier's day: give --carrier, such as --carrier tmobile")
        return r.QUOTA_SCOPE_BRAND_CARRIER_DAY, resource("brands", brand)
    if provider:
        return r.QUOTA_SCOPE_PROVIDER, resource("providers", provider)
    return r.QUOTA_SCOPE_TENANT, tenant_name(tenant)


@group.command("list")
def list_quotas(context: typer.Context, *, tenant: TenantOption = "", as_json: Json = False) -> None:
    """List the quotas that bind a tenant; with an admin key and no tenant, those of provider accounts."""
    with client(context) as c:
        records = pages(
            lambda token: c.registry.list_quotas(
                r.ListQuotasRequest(tenant=tenant_name(tenant), page_size=PAGE_RECORDS, page_token=token)
            ),
            lambda page: page.quotas,
        )
        show_all(records, COLUMNS, "quotas", as_json=as_json)


@group.command()
def delete(
    context: typer.Context,
    quota: Annotated[str, typer.Argument(metavar="QUOTA", help="Its number in `longwave quota list`.")],
    *,
    as_json: Json = False,
) -> None:
    """Remove a quota."""
    name = resource("quotas", quota)
    with client(context) as c:
        c.registry.delete_quota(r.DeleteQuotaRequest(name=name))
    if as_json:
        output.json_line({"deleted": name})
    else:
        output.line(f"deleted {name}")
