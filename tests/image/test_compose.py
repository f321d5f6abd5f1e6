"""compose.yaml: what it sets is taken by the engine, what it mounts is there, and nothing of it is open to the network.

`make lint-compose` loads it with compose's own loader; starting it needs Docker, which no test here has.
"""

import base64
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine.config import load_settings
from loadtest.carrier.signing import key_seed_from

DOCKER = Path(__file__).parents[2] / "deploy" / "docker"
OWN = ("bootstrap", "longwave")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """The folder of secrets, as prepare.sh makes it."""
    shutil.copy(DOCKER / "prepare.sh", tmp_path)
    subprocess.run([tmp_path / "prepare.sh"], check=True, capture_output=True)
    return tmp_path / "secrets"


def test_everything_of_the_list_is_there(compose: dict[str, Any]) -> None:
    assert {"mysql", "redis", "prometheus", "grafana", "longwave", "carrier"} <= set(compose["services"])


def test_every_service_is_bounded_hardened_and_watched(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        limits = service["deploy"]["resources"]["limits"]
        assert limits["cpus"], name
        assert limits["memory"], name
        assert service["healthcheck"], name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_secrets_are_files_that_prepare_makes_and_no_environment_holds_one(
    compose: dict[str, Any], prepared: Path
) -> None:
    files = {secret["file"].removeprefix("./secrets/") for secret in compose["secrets"].values()}
    assert files == {path.name for path in prepared.iterdir()}
    for name, service in compose["services"].items():
        assert set(service.get("secrets", [])) <= set(compose["secrets"]), name
        for variable, value in service.get("environment", {}).items():
            secret = any(word in variable for word in ("PASSWORD", "API_KEY", "SECRET"))
            assert not secret or value.startswith(("/run/secrets/", "/var/lib/longwave/")), f"{name}: {variable}"


def test_prepare_keeps_what_is_there(prepared: Path) -> None:
    before = {path.name: path.read_bytes() for path in prepared.iterdir()}
    subprocess.run([prepared.parent / "prepare.sh"], check=True, capture_output=True)
    assert {path.name: path.read_bytes() for path in prepared.iterdir()} == before
    assert prepared.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", OWN)
def test_the_engine_takes_its_settings(
    name: str, compose: dict[str, Any], prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("LONGWAVE_")]:
        monkeypatch.delenv(variable)
    for variable, value in compose["services"][name]["environment"].items():
        here = str(value).replace("/run/secrets/longwave_toml", str(prepared / "longwave.toml"))
        monkeypatch.setenv(variable, here.replace("/run/secrets", str(prepared)))
    settings = load_settings()
    assert settings.telnyx_api_key is not None
    assert settings.telnyx_api_key.get_secret_value() == (prepared / "carrier_key").read_text(encoding="ascii").strip()
    assert not settings.store_is_embedded


def test_the_public_key_is_the_simulated_carriers(compose: dict[str, Any]) -> None:
    key = Ed25519PrivateKey.from_private_bytes(key_seed_from(1)).public_key().public_bytes_raw()
    assert (
        compose["services"]["longwave"]["environment"]["LONGWAVE_TELNYX_PUBLIC_KEY"] == base64.b64encode(key).decode()
    )
