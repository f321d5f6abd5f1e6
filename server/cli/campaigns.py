"""`longwave campaign`: use cases of a brand; paused, stopped or active.

It calls the registry and shows what comes back.
"""

from collections.abc import Callable
from typing import Annotated, Final, cast

import typer

from longwave.v1 import registry_pb2 as r
from server.cli.connect import client
from server.cli.failure import usage
from server.cli.names import enum_name, resource, short, when
from server.cli.options import choices, one_of
from server.cli.output import Json
from server.cli.records import PAGE_RECORDS, TenantOption, pages, show, show_all, tenant_name

group = typer.Typer(no_args_is_help=True, help="Campaigns: what is sent, and whether it may leave.")

COLUMNS: Final[dict[str, Callable[[r.Campaign], str]]] = {
    "campaign": lambda c: short(c.name),
    "tenant": lambda c: short(c.tenant),
    "brand": lambda c: short(c.brand),
    "TCR campaign": lambda c: c.tcr_campaign,
    "use case": lambda c: c.use_case,
    "state": lambda c: enum_name(r.CampaignState.DESCRIPTOR, c.state),
    "on unknown": lambda c: enum_name(r.OnUnknown.DESCRIPTOR, c.on_unknown) or "by class",
    "profile": lambda c: c.messaging_profile,
    "made": lambda c: when(c.create_time),
}
CampaignId = Annotated[str, typer.Argument(metavar="CAMPAIGN", help="Its id: lower-case letters, digits and dashes.")]
OnUnknownOption = Annotated[
    int,
    typer.Option(
        "--on-unknown",
        parser=one_of(r.OnUnknown.DESCRIPTOR),
        metavar=choices(r.OnUnknown.DESCRIPTOR),
        help="When an attempt's outcome stays unknown; unset: by class.",
    ),
]


@group.command()
def create(
    context: typer.Context,
    campaign: CampaignId,
    *,
    tenant: TenantOption,
    brand: Annotated[str, typer.Option(metavar="BRAND", help="Whose use case it is.")],
    tcr_campaign: Annotated[str, typer.Option("--tcr-campaign", metavar="C…", help="Its id at TCR.")] = "",
    use_case: Annotated[str, typer.Option(help="TCR's use case, such as 2FA.")] = "",
    on_unknown: OnUnknownOption = 0,
    messaging_profile: Annotated[str, typer.Option(help="The provider's messaging profile.")] = "",
    as_json: Json = False,
) -> None:
    """Make a campaign."""
    request = r.CreateCampaignRequest(
        tenant=tenant_name(tenant),
        brand=resource("brands", brand),
        campaign_id=short(campaign),
        tcr_campaign=tcr_campaign,
        use_case=use_case,
        on_unknown=cast("r.OnUnknown.ValueType", on_unknown),
        messaging_profile=messaging_profile,
    )
    with client(context) as c:
        show(c.registry.create_campaign(request).campaign, COLUMNS, as_json=as_json)


@group.command()
def get(context: typer.Context, campaign: CampaignId, *, tenant: TenantOption = "", as_json: Json = False) -> None:
    """Show a campaign."""
    request = r.GetCampaignRequest(name=resource("campaigns", campaign), tenant=tenant_name(tenant))
    with client(context) as c:
        show(c.registry.get_campaign(request).campaign, COLUMNS, as_json=as_json)


@group.command("list")
def list_campaigns(context: typer.Context, *, tenant: TenantOption = "", as_json: Json = False) -> None:
    """List the campaigns of a tenant."""
    with client(context) as c:
        records = pages(
            lambda token: c.registry.list_campaigns(
                r.ListCampaignsRequest(tenant=tenant_name(tenant), page_size=PAGE_RECORDS, page_token=token)
            ),
            lambda page: page.campaigns,
        )
        show_all(records, COLUMNS, "campaigns", as_json=as_json)


@group.command()
def update(
    context: typer.Context,
    campaign: CampaignId,
    *,
    tenant: TenantOption = "",
    state: Annotated[
        int,
        typer.Option(
            parser=one_of(r.CampaignState.DESCRIPTOR),
            metavar=choices(r.CampaignState.DESCRIPTOR),
            help="active sends, paused accepts and holds, stopped refuses and blocks what waits.",
        ),
    ] = 0,
    on_unknown: OnUnknownOption = 0,
    as_json: Json = False,
) -> None:
    """Pause, stop or resume a campaign, or change its policy."""
    if not state and not on_unknown:
        raise usage("nothing to change: give --state or --on-unknown")
    request = r.UpdateCampaignRequest(
        name=resource("campaigns", campaign),
        tenant=tenant_name(tenant),
        state=cast("r.CampaignState.ValueType", state),
        on_unknown=cast("r.OnUnknown.ValueType", on_unknown),
    )
    with client(context) as c:
        show(c.registry.update_campaign(request).campaign, COLUMNS, as_json=as_json)
