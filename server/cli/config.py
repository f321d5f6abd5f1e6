"""`longwave config`: what is in force and where it comes from, secrets hidden.

It changes nothing.
"""

from dataclasses import asdict
from typing import Annotated

import typer

from engine.config import load_settings
from engine.config_listing import describe, reference_markdown
from server.cli import output
from server.cli.output import Json


def config(
    *,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Write the reference of all settings instead, as Markdown.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the settings in force, where each comes from, and what it means."""
    if markdown:
        output.line(reference_markdown().rstrip("\n"))
        return
    listed = describe(load_settings())
    if as_json:
        output.json_line([asdict(setting) for setting in listed])
        return
    output.table(
        ["variable", "value", "source", "meaning"],
        [[setting.name, setting.value, setting.source, setting.description] for setting in listed],
    )
