"""`longwave brand`: businesses as registered with The Campaign Registry.

It calls the registry and shows what comes back.
"""

from collections.abc import Callable
from typing import Annotated, Final

import typer

from longwave.v1 import registry_pb2 as r
from server.cli.connect import client
from server.cli.names import resource, short, when
from server.cli.output import Json
from server.cli.records import PAGE_RECORDS, TenantOption, pages, show, show_all, tenant_name

group = typer.Typer(no_args_is_help=True, help="Brands: businesses, each with its EIN.")

COLUMNS: Final[dict[str, Callable[[r.Brand], str]]] = {
    "brand": lambda b: short(b.name),
    "tenant": lambda b: short(b.tenant),
    "legal name": lambda b: b.display_name,
    "EIN": lambda b: b.ein,
    "made": lambda b: when(b.create_time),
}
BrandId = Annotated[str, typer.Argument(metavar="BRAND", help="Its id: lower-case letters, digits and dashes.")]


@group.command()
def create(
    context: typer.Context,
    brand: BrandId,
    *,
    tenant: TenantOption,
    display_name: Annotated[str, typer.Option("--name", help="Legal name.")],
    ein: Annotated[str, typer.Option(metavar="NN-NNNNNNN", help="Employer identification number.")],
    as_json: Json = False,
) -> None:
    """Make a brand."""
    request = r.CreateBrandRequest(
        tenant=tenant_name(tenant), brand_id=short(brand), display_name=display_name, ein=ein
    )
    with client(context) as c:
        show(c.registry.create_brand(request).brand, COLUMNS, as_json=as_json)


@group.command()
def get(context: typer.Context, brand: BrandId, *, tenant: TenantOption = "", as_json: Json = False) -> None:
    """Show a brand."""
    request = r.GetBrandRequest(name=resource("brands", brand), tenant=tenant_name(tenant))
    with client(context) as c:
        show(c.registry.get_brand(request).brand, COLUMNS, as_json=as_json)


@group.command("list")
def list_brands(context: typer.Context, *, tenant: TenantOption = "", as_json: Json = False) -> None:
    """List the brands of a tenant."""
    with client(context) as c:
        records = pages(
            lambda token: c.registry.list_brands(
                r.ListBrandsRequest(tenant=tenant_name(tenant), page_size=PAGE_RECORDS, page_token=token)
            ),
            lambda page: page.brands,
        )
        show_all(records, COLUMNS, "brands", as_json=as_json)
