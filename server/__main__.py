"""The `longwave` command.

It holds nothing but the start: `server/cli/` has one file for each group of commands.
"""

import sys
from typing import Final

INTERRUPTED: Final = 130


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    try:
        # Here, not above: loading every command takes long enough for a Ctrl-C to come in between.
        from server.cli.app import app  # noqa: PLC0415

        app(prog_name="longwave")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
