"""The engine accepts the environment that each pod gets, and what the chart says of roles is what the engine does."""

import os
import re

import pytest

from engine.config import PREFIX, Settings, load_settings
from engine.config_checks import is_loopback, split_address
from engine.errors import ConfigError
from tests.deploy.rendering import (
    ENVIRONMENTS,
    RENDERINGS,
    ROLES,
    ROOT,
    RefusedError,
    built,
    container,
    environment_of,
    of_kind,
    one,
    pod,
    rendered,
    template,
    workloads,
)

IMAGE = ROOT / "deploy" / "docker" / "Dockerfile"


def of_the_image() -> dict[str, str]:
    """What the image itself sets: a pod's own settings must win over it."""
    return dict(re.findall(rf"({PREFIX}\w+)=(\S+)", IMAGE.read_text(encoding="utf-8")))


def an_operators(environment: dict[str, str]) -> dict[str, str]:
    """With a key of the carrier in place of the placeholder."""
    return environment | {"LONGWAVE_TELNYX_PUBLIC_KEY": "i6CE2q244wP1ulWa+MuzS6eGCDqsPTJV7N0ity2Ntus="}


def loaded(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Settings:
    """Settings of a process with exactly this environment."""
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    for name, value in (of_the_image() | environment).items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_the_engine_accepts_what_every_pod_gets(rendering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = rendered(rendering)
    seen = list(workloads(text))
    assert len(seen) >= len(ROLES)
    for entry in seen:
        environment = environment_of(text, entry)
        assert all(name.startswith(PREFIX) for name in environment)
        settings = loaded(monkeypatch, an_operators(environment))
        assert not settings.store_is_embedded
        assert settings.failpoint == ""
        assert settings.node is None, "pods of one Deployment cannot each have a number of their own"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_engine_accepts_what_kustomize_builds(environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in workloads(built(environment)):
        loaded(monkeypatch, an_operators(environment_of(built(environment), entry)))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_no_pod_starts_before_the_carriers_key_was_set(environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing would fail but every receipt and every STOP."""
    for text in (rendered(environment), built(environment)):
        for entry in workloads(text):
            with pytest.raises(ConfigError, match="placeholder"):
                loaded(monkeypatch, environment_of(text, entry))


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_a_role_opens_the_doors_that_it_needs(rendering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for role in ROLES:
        entry = one(rendered(rendering), "Deployment", f"longwave-{role}")
        settings = loaded(monkeypatch, an_operators(environment_of(rendered(rendering), entry)))
        assert settings.roles == (role,)
        opened = {
            "grpc": settings.grpc_address,
            "ops": settings.http_address,
            "webhooks": settings.webhook_address,
        }
        wide = {name: split_address(address) for name, address in opened.items()}
        ports = {port["name"]: port["containerPort"] for port in container(entry)["ports"]}
        assert ports == {name: port for name, (host, port) in wide.items() if not is_loopback(host)}
        assert ports.keys() == {"ops"} | ({"grpc"} if role in {"ingest", "admin"} else set()) | (
            {"webhooks"} if role == "receipts" else set()
        )


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_every_file_that_a_setting_names_is_mounted(rendering: str) -> None:
    text = rendered(rendering)
    for entry in workloads(text):
        mounted = set()
        volumes = {volume["name"]: volume for volume in pod(entry)["volumes"]}
        for mount in container(entry)["volumeMounts"]:
            volume = volumes[mount["name"]]
            source = volume.get("secret") or volume.get("configMap")
            items = source.get("items") if source else None
            names = [item["path"] for item in items] if items else ["tls.crt", "tls.key", "ca.crt"] if source else []
            mounted |= {f"{mount['mountPath']}/{name}" for name in names}
        named = {
            value
            for name, value in environment_of(text, entry).items()
            if name.endswith("_FILE")
            # A migration asks the store alone, and reads neither.
            and not (entry["kind"] == "Job" and name in {"LONGWAVE_SECRET_FILE", "LONGWAVE_REDIS_PASSWORD_FILE"})
        }
        assert named <= mounted
        assert len(named) >= 1


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_only_dispatch_has_the_carriers_key(rendering: str) -> None:
    text = rendered(rendering)
    holders = [
        entry["metadata"]["name"]
        for entry in workloads(text)
        if "telnyx-api-key" in str(entry["spec"]) or "LONGWAVE_TELNYX_API_KEY" in environment_of(text, entry)
    ]
    assert holders == ["longwave-dispatch"]


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_the_grace_covers_the_drain(rendering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in of_kind(rendered(rendering), "Deployment"):
        settings = loaded(monkeypatch, an_operators(environment_of(rendered(rendering), entry)))
        wait_s = container(entry)["lifecycle"]["preStop"]["sleep"]["seconds"]
        # Behind the drain the operations server has 5 s to end what it answers (server/ops.py).
        assert pod(entry)["terminationGracePeriodSeconds"] >= wait_s + settings.drain_s + 5 + 1


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_services_do_not_become_settings(rendering: str) -> None:
    """A Service `longwave-ops` would give every pod LONGWAVE_OPS_PORT, and the engine refuses what it does not know."""
    for entry in workloads(rendered(rendering)):
        assert pod(entry)["enableServiceLinks"] is False


def test_what_a_service_would_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = one(rendered("production"), "Deployment", "longwave-ingest")
    linked = environment_of(rendered("production"), entry) | {"LONGWAVE_OPS_SERVICE_HOST": "10.0.0.1"}
    with pytest.raises(Exception, match="LONGWAVE_OPS_SERVICE_HOST is not a setting"):
        loaded(monkeypatch, linked)


@pytest.mark.parametrize(
    "setting",
    [
        "LONGWAVE_STORE_URL=sqlite:///longwave.db",
        "LONGWAVE_STORE_URL=mysql://longwave:password@host:3306/longwave",
        "LONGWAVE_STORE_TLS=off",
        "LONGWAVE_REDIS_URL=redis://redis:6379",
        "LONGWAVE_WEBHOOK_BASE_URL=http://webhooks.10dlc-sms.com",
        "LONGWAVE_TELNYX_BASE_URL=http://api.telnyx.com/v2",
        "LONGWAVE_TELNYX_PUBLIC_KEY=null",
        "LONGWAVE_INSECURE=true",
        "LONGWAVE_STORE_PASSWORD=secret",
        "LONGWAVE_TELNYX_API_KEY=secret",
        "LONGWAVE_ROLES=ingest",
        "LONGWAVE_NODE=1",
        "LONGWAVE_FAILPOINT=x",
        "LONGWAVE_HELD_MESSAGE_MAX=1",
    ],
)
def test_the_schema_refuses_a_setting(setting: str) -> None:
    with pytest.raises(RefusedError, match="schema"):
        template("staging", (f"settings.{setting}",))
