"""`longwave tenant`: customers of the engine, and whether they may send.

It calls the registry and shows what comes back.
"""

from collections.abc import Callable
from typing import Annotated, Final, cast

import typer

from longwave.v1 import registry_pb2 as r
from server.cli.connect import client
from server.cli.names import enum_name, short, when
from server.cli.options import choices, one_of
from server.cli.output import Json
from server.cli.records import PAGE_RECORDS, pages, show, show_all, tenant_name

group = typer.Typer(no_args_is_help=True, help="Tenants: who sends.")

COLUMNS: Final[dict[str, Callable[[r.Tenant], str]]] = {
    "tenant": lambda t: short(t.name),
    "display name": lambda t: t.display_name,
    "state": lambda t: enum_name(r.TenantState.DESCRIPTOR, t.state),
    "made": lambda t: when(t.create_time),
}
TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="Its id: lower-case letters, digits and dashes.")]


@group.command()
def create(
    context: typer.Context,
    tenant: TenantId,
    *,
    display_name: Annotated[str, typer.Option("--name", help="What people call it.")] = "",
    as_json: Json = False,
) -> None:
    """Make a tenant."""
    with client(context) as c:
        made = c.registry.create_tenant(r.CreateTenantRequest(tenant_id=short(tenant), display_name=display_name))
    show(made.tenant, COLUMNS, as_json=as_json)


@group.command()
def get(context: typer.Context, tenant: TenantId, *, as_json: Json = False) -> None:
    """Show a tenant."""
    with client(context) as c:
        found = c.registry.get_tenant(r.GetTenantRequest(name=tenant_name(tenant)))
    show(found.tenant, COLUMNS, as_json=as_json)


@group.command("list")
def list_tenants(context: typer.Context, *, as_json: Json = False) -> None:
    """List all tenants; a tenant's key sees its own."""
    with client(context) as c:
        records = pages(
            lambda token: c.registry.list_tenants(r.ListTenantsRequest(page_size=PAGE_RECORDS, page_token=token)),
            lambda page: page.tenants,
        )
        show_all(records, COLUMNS, "tenants", as_json=as_json)


@group.command()
def update(
    context: typer.Context,
    tenant: TenantId,
    *,
    state: Annotated[
        int,
        typer.Option(
            parser=one_of(r.TenantState.DESCRIPTOR), metavar=choices(r.TenantState.DESCRIPTOR), help="May it send."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Suspend a tenant (submissions are refused, what waits is held) or let it send again."""
    wanted = cast("r.TenantState.ValueType", state)
    with client(context) as c:
        changed = c.registry.update_tenant(r.UpdateTenantRequest(name=tenant_name(tenant), state=wanted))
    show(changed.tenant, COLUMNS, as_json=as_json)
