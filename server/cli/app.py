"""Puts the commands together, with the options that come before them, and turns expected failures into sentences.

It does nothing itself. A traceback on the terminal is a bug: whatever can be expected to go wrong is a `CliFailure`.
"""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typing_extensions import override

from server.cli import (
    api_keys,
    brands,
    cache,
    campaigns,
    carrier,
    config,
    demo,
    doctor,
    info,
    messages,
    numbers,
    opt_outs,
    quotas,
    secret_keys,
    segment,
    send,
    serve,
    smoke,
    store,
    tenants,
    watch,
)
from server.cli.connect import Target
from server.cli.failure import EXIT_INTERRUPTED, EXPECTED, CliFailure, failure_of
from server.cli.output import line, say
from server.info import engine_version

SERVER = "The engine"
MESSAGES = "Messages"
REGISTRY = "Registry (needs an admin key)"


class Commands(TyperGroup):
    """The root group."""

    @override
    def invoke(self, ctx: Any) -> Any:
        """Run the command; expected failures become a sentence and an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has gone (`longwave watch | head`). What is left goes nowhere, without a word.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit from None
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            found = CliFailure("the disk is full: the output is not complete")
        except CliFailure as failure:
            found = failure
        except EXPECTED as error:
            found = failure_of(error)
        say(f"longwave: {found}")
        raise typer.Exit(found.exit_code)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer hands the flag over by position
    if wanted:
        line(f"longwave {engine_version()}")
        raise typer.Exit


@app.callback(
    epilog="Settings come from the environment: `longwave config` lists them. Start with `longwave demo`.",
)
def root(
    context: typer.Context,
    *,
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the engine is. [dim]env LONGWAVE_GRPC_ADDRESS[/dim]"),
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Use TLS with this machine's certificate authorities.")] = False,
    ca_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Use TLS with the certificate authorities in this PEM file.")
    ] = None,
    cert_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Show this PEM certificate, where the engine asks for one.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM key of that certificate.")] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            envvar="LONGWAVE_INSECURE",
            help="Send key and texts in the clear to another machine.",
        ),
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Longwave sends text messages, durably, within the limits of law and carriers.

    The commands for messages and the registry talk to a running engine with the API key in LONGWAVE_API_KEY.
    """
    context.obj = Target(
        address=address, ca_file=ca_file, tls=tls, cert_file=cert_file, key_file=key_file, insecure=insecure
    )


_COMMANDS: Final[dict[str, tuple[Callable[..., None], ...]]] = {
    SERVER: (
        demo.demo,
        serve.serve,
        store.bootstrap,
        store.migrate,
        store.restore,
        config.config,
        doctor.doctor,
        smoke.smoke,
    ),
    MESSAGES: (
        send.send,
        messages.get,
        messages.list_messages,
        messages.cancel,
        watch.watch,
        segment.segment,
        info.info,
    ),
}
for panel, commands in _COMMANDS.items():
    for command in commands:
        name = command.__name__.partition("_")[0]
        app.command(name=name, rich_help_panel=panel)(command)

app.command(
    name="simulate-carrier",
    rich_help_panel=SERVER,
    # Its options are the carrier's own, --help included.
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(carrier.simulate_carrier)
app.add_typer(cache.group, name="cache", rich_help_panel=SERVER)
app.add_typer(secret_keys.group, name="secret", rich_help_panel=SERVER)
app.add_typer(opt_outs.group, name="opt-out", rich_help_panel=MESSAGES)
for group_name, group in {
    "tenant": tenants.group,
    "brand": brands.group,
    "campaign": campaigns.group,
    "number": numbers.group,
    "key": api_keys.group,
    "quota": quotas.group,
}.items():
    app.add_typer(group, name=group_name, rich_help_panel=REGISTRY)
