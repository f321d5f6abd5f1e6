"""`longwave simulate-carrier`: the simulated carrier as a process of its own.

It knows no option of the carrier: all are passed on.
"""

import typer

from server.cli.processes import module_command, run_in_place

MODULE = "loadtest.carrier"


def simulate_carrier(context: typer.Context) -> None:
    """Run a simulated carrier that speaks Telnyx's API; its options are its own (`--help` lists them)."""
    raise typer.Exit(run_in_place(module_command(MODULE, context.args)))
