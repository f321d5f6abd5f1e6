"""An engine of its own for a benchmark: `longwave serve` over a fresh embedded store, with tenant, campaigns and key.

It measures nothing. What it makes lies in one folder, which goes with it. Without a carrier the engine holds what it
accepts, so that accepting is measured alone.

Invariant: an engine that was started is ended before the block that started it ends.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from loadtest.benchmarks.children import (
    HOST,
    BenchmarkError,
    Process,
    clean_environment,
    get,
    kill,
    module_command,
    start,
    stop,
    wait_ready,
)
from loadtest.ports import free_ports
from longwave.client import Client, Registry
from longwave.v1 import registry_pb2 as r

COMMAND: Final = "server"
# What LONGWAVE_EDGE takes, its default first.
EDGES: Final = ("grpcio", "native")
BOOTSTRAP_S: Final = 60.0
TENANT: Final = "tenants/bench"
BRAND: Final = "brands/bench"
# Sends as fast as it can.
OPEN: Final = "notices"
# One-time passwords, without a limit of its own.
URGENT: Final = "otp"
# Held back by its quota.
LIMITED: Final = "offers"
# As many as it takes that nodes share them evenly, each open as the first.
SPREAD: Final = tuple(f"spread-{number}" for number in range(16))
NUMBERS: Final = {
    OPEN: "+12025550150",
    URGENT: "+12025550151",
    LIMITED: "+12025550152",
    **{campaign: f"+12025550{160 + place}" for place, campaign in enumerate(SPREAD)},
}
# A segment a second leaves of the limited campaign: it moves, and what waits stays what it was.
LIMITED_PER_MINUTE: Final = 60
MINUTE_MS: Final = 60_000


def over_mysql(url: str, password: str, folder: Path) -> dict[str, str]:
    """Settings of an engine whose store is a database on a server; its secret file lies in `folder`."""
    return {
        "LONGWAVE_STORE_URL": url,
        "LONGWAVE_STORE_PASSWORD": password,
        "LONGWAVE_SECRET_FILE": str(folder.resolve() / "secrets"),
    }


class EngineProcess:
    """An engine over the store in a folder; it runs from `start` to `stop` or `kill`."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        """Take free ports; `settings` are further variables of its environment. Nothing is started."""
        grpc_port, self.http_port, webhook_port = free_ports(3)
        self.address = f"{HOST}:{grpc_port}"
        self.store = folder / "longwave.db"
        self.environment = clean_environment(
            {
                "LONGWAVE_STORE_URL": f"sqlite:///{self.store.resolve()}",
                "LONGWAVE_GRPC_ADDRESS": self.address,
                "LONGWAVE_HTTP_ADDRESS": f"{HOST}:{self.http_port}",
                "LONGWAVE_WEBHOOK_ADDRESS": f"{HOST}:{webhook_port}",
                # Written once at a store's first start, and part of no figure.
                "LONGWAVE_RESERVE_FILE_MIB": "1",
                **settings,
            }
        )
        self._key_file = folder / "tenant-key"
        self._admin_key_file = folder / "admin-key"
        self._log = folder / "engine.log"
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """Of the engine as it runs now. Raises RuntimeError when it does not."""
        if self._process is None:
            raise RuntimeError("the engine does not run")
        return self._process.pid

    def start(self) -> float:
        """Start it; returns the seconds until `/ready` said yes."""
        began = time.monotonic()
        self._process = start(module_command(COMMAND, "serve"), self.environment, self._log)
        wait_ready(self._process, self.http_port, self._log)
        return time.monotonic() - began

    def stop(self) -> None:
        """End it in order; nothing happens when it does not run."""
        if self._process is not None:
            stop(self._process)
            self._process = None

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            kill(self._process)
            self._process = None

    @property
    def shards(self) -> int:
        """How many it owns, by its own word. Raises OSError and HTTPException."""
        text = get(self.http_port, "/metrics")[1].decode()
        [line] = [line for line in text.splitlines() if line.startswith("longwave_shards ")]
        return int(float(line.split()[1]))

    @property
    def api_key(self) -> str:
        """The key that benchmarks send with."""
        return self._key_file.read_text(encoding="ascii")

    @property
    def admin_key(self) -> str:
        """The key that the registry is changed with."""
        return self._admin_key_file.read_text(encoding="ascii")

    def make_store(self) -> None:
        """Make store, registry and key, with an engine of its own for that."""
        done = subprocess.run(  # noqa: S603 - this interpreter and a module of ours
            module_command(COMMAND, "bootstrap", "--json"),
            env=self.environment,
            capture_output=True,
            timeout=BOOTSTRAP_S,
            check=False,
        )
        if done.returncode:
            raise BenchmarkError(f"longwave bootstrap failed: {done.stderr.decode('utf-8', 'replace').strip()}")
        self._admin_key_file.write_text(str(json.loads(done.stdout)["api_key"]), encoding="ascii")
        self.start()
        try:
            with Client(self.address, api_key=self.admin_key) as client:
                _make(client.registry)
                wish = r.CreateApiKeyRequest(tenant=TENANT, role=r.ROLE_TENANT, display_name="benchmarks")
                self._key_file.write_text(client.registry.create_api_key(wish).secret, encoding="ascii")
        finally:
            self.stop()

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a bare call carries."""
        return (("authorization", f"Bearer {self.api_key}"),)

    def stats(self) -> dict[str, Any]:
        """What `/admin/stats` shows."""
        status, body = get(self.http_port, "/admin/stats")
        if status != 200:  # noqa: PLR2004 - OK
            raise BenchmarkError(f"/admin/stats answered {status}")
        shown: dict[str, Any] = json.loads(body)
        return shown


def pin(running: EngineProcess, cores: Sequence[int]) -> None:
    """Keep a running engine on these processors: what a driver on the others takes is not the engine's."""
    for thread in Path(f"/proc/{running.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


@contextmanager
def engine(parent: Path, settings: Mapping[str, str] | None = None) -> Iterator[EngineProcess]:
    """A started engine over a store of its own, in a folder below `parent` that goes with it.

    The store is a copy of one that the first call makes: an empty one, but for the registry.
    """
    made = parent / "made"
    if not made.exists():
        with tempfile.TemporaryDirectory(prefix="making-", dir=parent) as folder:
            EngineProcess(Path(folder), {}).make_store()
            shutil.copytree(folder, made)
    with tempfile.TemporaryDirectory(prefix="engine-", dir=parent) as folder:
        shutil.copytree(made, folder, dirs_exist_ok=True)
        running = EngineProcess(Path(folder), settings or {})
        try:
            running.start()
            yield running
        finally:
            running.stop()


def _make(registry: Registry) -> None:
    registry.create_tenant(r.CreateTenantRequest(tenant_id="bench", display_name="Benchmarks"))
    registry.create_brand(
        r.CreateBrandRequest(tenant=TENANT, brand_id="bench", display_name="Benchmarks", ein="12-3456789")
    )
    for campaign, number in NUMBERS.items():
        registry.create_campaign(
            r.CreateCampaignRequest(
                tenant=TENANT, brand=BRAND, campaign_id=campaign, tcr_campaign="", use_case="MIXED",
                on_unknown=r.ON_UNKNOWN_UNSPECIFIED,
            )
        )  # fmt: skip
        registry.create_number(r.CreateNumberRequest(tenant=TENANT, campaign=f"campaigns/{campaign}", number=number))
    limit = r.Quota(
        scope=r.QUOTA_SCOPE_CAMPAIGN,
        subject=f"campaigns/{LIMITED}",
        unit=r.QUOTA_UNIT_SEGMENTS,
        amount=LIMITED_PER_MINUTE,
        window_ms=MINUTE_MS,
    )
    registry.set_quota(r.SetQuotaRequest(tenant=TENANT, quota=limit))
