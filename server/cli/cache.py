"""`longwave cache`: what nodes keep in Redis of look-ups, filled for a campaign or cleared.

It works on Redis and the store as the settings of a node name them, beside nodes that serve, and shows numbers only.
"""

from typing import Annotated

import typer

from engine.config import Settings, load_settings
from server.cli import output
from server.cli.failure import usage
from server.cli.names import short
from server.cli.output import Json

group = typer.Typer(no_args_is_help=True, help="Look-ups kept in Redis: fill or clear them.")


@group.command()
def warm(
    *,
    campaign: Annotated[str, typer.Option(metavar="CAMPAIGN", help="Whose messages.")],
    tenant: Annotated[
        str, typer.Option(metavar="TENANT", help="Whose campaign; needed where several have one of this id.")
    ] = "",
    messages_max: Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="At most so many.")] = 10_000,
    as_json: Json = False,
) -> None:
    """Keep the newest messages of a campaign that never change again, so that no node asks the store for them."""
    from server.cli import cache_work  # noqa: PLC0415 - loads an extra

    kept = cache_work.warm(_settings(), campaign=short(campaign), tenant=short(tenant), messages_max=messages_max)
    if as_json:
        output.json_line({"kept": kept})
    else:
        output.line(f"{kept} messages of {short(campaign)} are kept for 300 s")


@group.command()
def clear(
    *,
    message: Annotated[str, typer.Option(metavar="MESSAGE", help="This one, whosever it is.")] = "",
    tenant: Annotated[str, typer.Option(metavar="TENANT", help="All of a tenant.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="All that is kept.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what is kept: in Redis at once, in the memory of nodes when they hear of it, or within 300 s."""
    from server.cli import cache_work  # noqa: PLC0415 - loads an extra

    if sum(map(bool, (message, tenant, everything))) != 1:
        raise usage("give one of --message, --tenant and --all")
    cleared = cache_work.clear(_settings(), message=message, tenant=short(tenant))
    if as_json:
        output.json_line({"cleared": cleared})
    else:
        output.line(f"{cleared} cleared in Redis; nodes that do not hear of it drop theirs within 300 s")


def _settings() -> Settings:
    settings = load_settings()
    if not settings.redis_url:
        raise usage("LONGWAVE_REDIS_URL is not set: nothing is kept outside of a node's own memory")
    return settings
