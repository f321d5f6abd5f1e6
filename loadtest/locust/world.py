"""Who sends: keys and campaigns of an engine, in a file that only its owner may read.

`{"address": "host:port", "senders": [{"api_key": "…", "campaigns": {"urgent": …, "notices": …, "offers": …}}]}`; a
sender is a tenant, and its campaigns are named by their ids.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from longwave.client import Client
from longwave.v1 import registry_pb2 as r

PURPOSES: Final = ("urgent", "notices", "offers")
TENANTS: Final = ("load-a", "load-b")
FIRST_NUMBER: Final = 12025550190


@dataclass(frozen=True, slots=True)
class Sender:
    """A tenant."""

    api_key: str
    campaigns: dict[str, str]
    """By purpose."""

    def __repr__(self) -> str:
        """Without the key."""
        return f"Sender({sorted(self.campaigns)})"


@dataclass(frozen=True, slots=True)
class World:
    """An engine and its senders."""

    address: str
    senders: tuple[Sender, ...]


def read(file: Path) -> World:
    """Of a file. Raises ValueError that says what is wrong with it."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        senders = tuple(
            Sender(str(one["api_key"]), {name: str(one["campaigns"][name]) for name in PURPOSES})
            for one in raw["senders"]
        )
        found = World(str(raw["address"]), senders)
    except (OSError, KeyError, TypeError, ValueError) as error:
        wanted = 'write {"address", "senders": [{"api_key", "campaigns": {"urgent", "notices", "offers"}}]}'
        raise ValueError(f"{file}: {type(error).__name__}: {wanted}") from None
    if not found.senders:
        raise ValueError(f"{file}: give at least one sender")
    return found


def write(world: World, file: Path) -> None:
    """Into a file that only this user may read."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        json.dump(asdict(world), opened)


def make(address: str, admin_key: str) -> World:
    """Two tenants with three campaigns and numbers each, made through the API with an administrator's key."""
    senders, number = [], FIRST_NUMBER
    with Client(address, api_key=admin_key) as client:
        registry = client.registry
        for name in TENANTS:
            tenant = f"tenants/{name}"
            registry.create_tenant(r.CreateTenantRequest(tenant_id=name, display_name=name))
            registry.create_brand(
                r.CreateBrandRequest(tenant=tenant, brand_id=name, display_name=name, ein="12-3456789")
            )
            campaigns = {purpose: f"{name}-{purpose}" for purpose in PURPOSES}
            for campaign in campaigns.values():
                registry.create_campaign(
                    r.CreateCampaignRequest(
                        tenant=tenant, brand=f"brands/{name}", campaign_id=campaign, tcr_campaign="",
                        use_case="MIXED", on_unknown=r.ON_UNKNOWN_UNSPECIFIED,
                    )
                )  # fmt: skip
                registry.create_number(
                    r.CreateNumberRequest(tenant=tenant, campaign=f"campaigns/{campaign}", number=f"+{number}")
                )
                number += 1
            key = registry.create_api_key(r.CreateApiKeyRequest(tenant=tenant, role=r.ROLE_TENANT, display_name="load"))
            senders.append(Sender(key.secret, campaigns))
    return World(address, tuple(senders))
