"""A real engine process over a store of its own, driven by signals and what it prints.

It knows no command line: the child calls `server.app.run` as the command line does.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from engine.registry import api_keys, campaigns, tenants
from engine.registry.records import OnUnknown, Role
from engine.secrets import open_secrets
from engine.stores.connection import engine_over, open_writer
from engine.stores.migrate import migrate

WAIT_S: Final = 30
NOW_US: Final = 1_700_000_000_000_000
READY: Final = re.compile(r"is ready: gRPC (\S+), operations (\S+), webhooks (\S+)$")
RUN: Final = """
import sys
from engine.config import load_settings
from server.app import run
sys.exit(run(load_settings(), announce=lambda line: print(line, flush=True)))
"""


def make_store(folder: Path) -> str:
    """A store with tenant, campaign and number; returns the tenant's key."""
    path = folder / "longwave.db"
    secrets = open_secrets(folder / "longwave.db.secrets", create=True, now_us=NOW_US)
    connection = open_writer(path)
    migrate(connection, path, now_us=NOW_US)

    def make(control: sa.Connection) -> str:
        tenant = tenants.create_tenant(control, "acme", "", now_us=NOW_US)
        brand = tenants.create_brand(control, tenant, "acme", display_name="", ein="12-3456789", now_us=NOW_US)
        campaign = campaigns.create_campaign(
            control, tenant, brand, "notices", tcr_campaign="", use_case="MIXED", on_unknown=OnUnknown.BY_CLASS,
            messaging_profile="", now_us=NOW_US,
        )  # fmt: skip
        campaigns.create_number(control, tenant, campaign, 12025550100, now_us=NOW_US)
        _, token = api_keys.create_api_key(
            control, secrets, role=Role.TENANT, tenant=tenant, display_name="", expire_us=None, now_us=NOW_US
        )
        return token.text

    with engine_over(connection).begin() as control:
        key = make(control)
    connection.close()
    return key


class EngineProcess:
    """One child, from construction to `end`."""

    def __init__(self, folder: Path, prelude: str = "", **settings: str) -> None:
        """Start it; `prelude` is run in the child first."""
        values = {
            "store_url": f"sqlite:///{folder / 'longwave.db'}",
            "grpc_address": "127.0.0.1:0",
            "http_address": "127.0.0.1:0",
            "webhook_address": "127.0.0.1:0",
            "reserve_file_mib": "0",
        }
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LONGWAVE_")}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        environment |= {f"LONGWAVE_{name.upper()}": value for name, value in (values | settings).items()}
        self.process = subprocess.Popen(
            [sys.executable, "-c", prelude + RUN],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.grpc = self.http = self.webhooks = ""

    def line(self) -> str:
        """The next line it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip()

    def until_ready(self) -> None:
        """Wait for the line that says so, and take the addresses from it."""
        found = READY.search(said := self.line())
        assert found, said or self.process.communicate(timeout=WAIT_S)[1]
        self.grpc, self.http, self.webhooks = found.groups()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for its end; its exit code and what it logged."""
        _, logged = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, logged

    def kill(self) -> None:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate(timeout=WAIT_S)
