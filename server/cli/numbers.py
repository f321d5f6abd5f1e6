"""`longwave number`: the numbers that campaigns send from.

It calls the registry and shows what comes back.
"""

from collections.abc import Callable
from typing import Annotated, Final

import typer

from longwave.v1 import registry_pb2 as r
from server.cli import output
from server.cli.connect import client
from server.cli.names import resource, short, when
from server.cli.output import Json
from server.cli.records import PAGE_RECORDS, TenantOption, pages, show, show_all, tenant_name

group = typer.Typer(no_args_is_help=True, help="Numbers: what campaigns send from.")

COLUMNS: Final[dict[str, Callable[[r.Number], str]]] = {
    "number": lambda n: short(n.name),
    "campaign": lambda n: short(n.campaign),
    "tenant": lambda n: short(n.tenant),
    "made": lambda n: when(n.create_time),
}
NumberArgument = Annotated[str, typer.Argument(metavar="NUMBER", help="E.164, such as +12025550123.")]


@group.command()
def create(
    context: typer.Context,
    number: NumberArgument,
    *,
    tenant: TenantOption,
    campaign: Annotated[str, typer.Option(metavar="CAMPAIGN", help="The one campaign that sends from it.")],
    as_json: Json = False,
) -> None:
    """Assign a number to a campaign."""
    request = r.CreateNumberRequest(
        tenant=tenant_name(tenant), campaign=resource("campaigns", campaign), number=short(number)
    )
    with client(context) as c:
        show(c.registry.create_number(request).number, COLUMNS, as_json=as_json)


@group.command()
def get(context: typer.Context, number: NumberArgument, *, tenant: TenantOption = "", as_json: Json = False) -> None:
    """Show a number."""
    request = r.GetNumberRequest(name=resource("numbers", number), tenant=tenant_name(tenant))
    with client(context) as c:
        show(c.registry.get_number(request).number, COLUMNS, as_json=as_json)


@group.command("list")
def list_numbers(context: typer.Context, *, tenant: TenantOption = "", as_json: Json = False) -> None:
    """List the numbers of a tenant."""
    with client(context) as c:
        records = pages(
            lambda token: c.registry.list_numbers(
                r.ListNumbersRequest(tenant=tenant_name(tenant), page_size=PAGE_RECORDS, page_token=token)
            ),
            lambda page: page.numbers,
        )
        show_all(records, COLUMNS, "numbers", as_json=as_json)


@group.command()
def delete(context: typer.Context, number: NumberArgument, *, tenant: TenantOption, as_json: Json = False) -> None:
    """Take a number away; what waits to leave from it is blocked."""
    name = resource("numbers", number)
    with client(context) as c:
        c.registry.delete_number(r.DeleteNumberRequest(name=name, tenant=tenant_name(tenant)))
    if as_json:
        output.json_line({"deleted": name})
    else:
        output.line(f"deleted {name}")
