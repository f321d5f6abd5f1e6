"""`longwave key`: API keys; a key's secret is shown when it is made, and never again.

It calls the registry and shows what comes back.
"""

from collections.abc import Callable
from typing import Annotated, Final

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from longwave.v1 import registry_pb2 as r
from server.cli import output
from server.cli.connect import client
from server.cli.failure import usage
from server.cli.names import enum_name, resource, short, when
from server.cli.options import read_timestamp
from server.cli.output import Json
from server.cli.records import PAGE_RECORDS, TenantOption, pages, show, show_all, tenant_name

group = typer.Typer(no_args_is_help=True, help="API keys: a tenant's to send with, an admin's for the registry.")

COLUMNS: Final[dict[str, Callable[[r.ApiKey], str]]] = {
    "key": lambda k: short(k.name),
    "tenant": lambda k: short(k.tenant),
    "role": lambda k: enum_name(r.Role.DESCRIPTOR, k.role),
    "for": lambda k: k.display_name,
    "made": lambda k: when(k.create_time),
    "expires": lambda k: when(k.expire_time),
    "revoked": lambda k: when(k.revoke_time),
}


@group.command()
def create(
    context: typer.Context,
    *,
    tenant: Annotated[str, typer.Option(metavar="TENANT", help="Make a key to send with, for this tenant.")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="Make an admin key instead.")] = False,
    display_name: Annotated[str, typer.Option("--name", help="Who holds it.")] = "",
    expires: Annotated[
        Timestamp | None,
        typer.Option(
            parser=read_timestamp, metavar="TIME", help="Not valid from then on, such as 2027-01-01T00:00:00Z."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an API key and print its secret, once."""
    if bool(tenant) == admin:
        raise usage("say for whom: --tenant TENANT for a key to send with, or --admin for one that keeps the registry")
    request = r.CreateApiKeyRequest(
        tenant=tenant_name(tenant),
        role=r.ROLE_ADMIN if admin else r.ROLE_TENANT,
        display_name=display_name,
        expire_time=expires,
    )
    with client(context) as c:
        made = c.registry.create_api_key(request)
    if as_json:
        output.json_line(output.plain(made))
        return
    show(made.api_key, COLUMNS, as_json=False)
    output.line(f"export LONGWAVE_API_KEY={made.secret}")
    output.say("This is the only time the key is shown: keep it where secrets are kept.")


@group.command("list")
def list_keys(context: typer.Context, *, tenant: TenantOption = "", as_json: Json = False) -> None:
    """List the keys of a tenant, without their secrets; with an admin key and no tenant, the admin keys."""
    with client(context) as c:
        records = pages(
            lambda token: c.registry.list_api_keys(
                r.ListApiKeysRequest(tenant=tenant_name(tenant), page_size=PAGE_RECORDS, page_token=token)
            ),
            lambda page: page.api_keys,
        )
        show_all(records, COLUMNS, "keys", as_json=as_json)


@group.command()
def revoke(
    context: typer.Context,
    key: Annotated[
        str, typer.Argument(metavar="PREFIX", help="The 12 characters that name it in `longwave key list`.")
    ],
    *,
    as_json: Json = False,
) -> None:
    """Revoke a key; in force within two seconds."""
    if key.startswith("lw_"):
        raise usage(
            "name the key by its prefix only (`longwave key list`): the whole key now shows in your shell's history"
        )
    with client(context) as c:
        revoked = c.registry.revoke_api_key(r.RevokeApiKeyRequest(name=resource("apiKeys", key)))
    show(revoked.api_key, COLUMNS, as_json=as_json)
