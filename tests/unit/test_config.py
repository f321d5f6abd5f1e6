"""Settings: defaults hold together, every contradiction and unknown name is refused with what to change."""

import base64
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import Settings, load_settings
from engine.config_checks import split_address
from engine.config_listing import describe, reference_markdown
from engine.errors import ConfigError

KEY_A = base64.b64encode(b"a" * 32).decode()
KEY_B = base64.b64encode(b"b" * 32).decode()
SECRET = "KEY-that-must-not-be-shown"

Load = Callable[..., Settings]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    for name in list(os.environ):
        if name.startswith("LONGWAVE_"):
            monkeypatch.delenv(name)

    def with_variables(**variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(f"LONGWAVE_{name}", value)
        return load_settings()

    return with_variables


def test_the_defaults_hold_together_and_are_the_documented_ones(load: Load) -> None:
    settings = load()
    assert settings.store_url == "sqlite:///./longwave.db"
    assert (settings.grpc_address, settings.http_address, settings.webhook_address) == (
        "127.0.0.1:50051",
        "127.0.0.1:8080",
        "127.0.0.1:8081",
    )
    assert settings.provider == "telnyx"
    assert settings.telnyx_base_url == "https://api.telnyx.com/v2"
    assert not settings.telnyx_honours_keys
    assert settings.callback_base_url == "http://127.0.0.1:8081"
    assert settings.secrets_path == Path("longwave.db.secrets")
    assert settings.heartbeat_s + settings.send_s + settings.margin_s < settings.lease_s


MYSQL = {"STORE_URL": "mysql://u@127.0.0.1/longwave", "SECRET_FILE": "longwave.secrets"}
REDIS = MYSQL | {"REDIS_URL": "rediss://localhost"}
SENTINEL = MYSQL | {"REDIS_URL": "rediss+sentinel://localhost/service"}

CONTRADICTIONS: list[tuple[dict[str, str], str]] = [
    ({"SEND_S": "20"}, "raise the lease"),
    ({"ROLES": "ingest,receipts"}, "an embedded store has one process, which does all"),
    ({"HEARTBEAT_S": "10"}, "LONGWAVE_HEARTBEAT_S + LONGWAVE_SEND_S + LONGWAVE_MARGIN_S"),
    ({"LEASE_S": "25"}, "LONGWAVE_LEASE_S"),
    ({"CONNECT_S": "15"}, "LONGWAVE_CONNECT_S"),
    ({"RECONCILE_WAIT_S": "14"}, "LONGWAVE_RECONCILE_WAIT_S"),
    ({"BACKOFF_BASE_MS": "301000"}, "LONGWAVE_BACKOFF_BASE_MS"),
    ({"LOOKUP_AFTER_MIN": "60", "NO_RECEIPT_AFTER_H": "1"}, "LONGWAVE_LOOKUP_AFTER_MIN"),
    ({"NO_RECEIPT_AFTER_H": "73"}, "LONGWAVE_EARLY_RECEIPT_RETENTION_H"),
    ({"DRAIN_S": "14"}, "LONGWAVE_DRAIN_S"),
    ({"HELD_MESSAGES_MAX": "999"}, "LONGWAVE_HELD_MESSAGES_MAX"),
    ({"GROUP_MESSAGES_MAX": "999"}, "LONGWAVE_GROUP_MESSAGES_MAX"),
    ({"STREAM_CREDIT_MESSAGES": "999"}, "LONGWAVE_STREAM_CREDIT_MESSAGES"),
    ({"IN_FLIGHT_MAX": "257"}, "LONGWAVE_CONNECTIONS_MAX"),
    ({"GRPC_ADDRESS": "0.0.0.0:50051"}, "LONGWAVE_INSECURE=true"),
    ({"GRPC_ADDRESS": "[::]:50051"}, "LONGWAVE_INSECURE=true"),
    ({"GRPC_ADDRESS": "50051"}, "write host:port"),
    ({"GRPC_ADDRESS": "127.0.0.1:65536"}, "write host:port"),
    ({"GRPC_ADDRESS": "::1:50051"}, "in brackets"),
    ({"HTTP_ADDRESS": "127.0.0.1:50051"}, "a port of its own"),
    ({"GRPC_TLS_CERT_FILE": "server.pem"}, "LONGWAVE_GRPC_TLS_KEY_FILE"),
    ({"GRPC_TLS_KEY_FILE": "server.key"}, "LONGWAVE_GRPC_TLS_CERT_FILE"),
    ({"GRPC_TLS_CLIENT_CA_FILE": "ca.pem"}, "without a server certificate"),
    ({"WEBHOOK_BASE_URL": "ftp://sms.example.com"}, "not an http(s) URL"),
    ({"WEBHOOK_BASE_URL": "sms.example.com"}, "not an http(s) URL"),
    ({"WEBHOOK_BASE_URL": "http://sms.example.com"}, "plain http"),
    ({"WEBHOOK_BASE_URL": "https://u:p@sms.example.com"}, "carries a user"),
    ({"WEBHOOK_BASE_URL": "https://sms.example.com:x"}, "not a URL"),
    ({"WEBHOOK_ADDRESS": "0.0.0.0:8081"}, "LONGWAVE_WEBHOOK_BASE_URL is not set"),
    ({"TELNYX_API_KEY": SECRET, "TELNYX_PUBLIC_KEY": KEY_A}, "LONGWAVE_WEBHOOK_BASE_URL is not set"),
    ({"TELNYX_API_KEY": SECRET, "WEBHOOK_BASE_URL": "https://sms.example.com"}, "LONGWAVE_TELNYX_PUBLIC_KEY"),
    ({"TELNYX_BASE_URL": "http://api.example.com"}, "plain http"),
    ({"STORE_URL": "postgres://u:p@db/longwave"}, "write sqlite:///FILE or mysql://"),
    ({"STORE_DURABILITY": "D2"}, "a file is on one machine"),
    (MYSQL | {"STORE_URL": "mysql://u:p@127.0.0.1/longwave"}, "put it into LONGWAVE_STORE_PASSWORD"),
    (MYSQL | {"STORE_URL": "mysql://127.0.0.1/longwave"}, "write mysql://user@host:port/database"),
    (MYSQL | {"STORE_URL": "mysql://u@127.0.0.1:x/longwave"}, "write mysql://user@host:port/database"),
    (MYSQL | {"STORE_URL": "mysql://u@127.0.0.1"}, "write mysql://user@host:port/database"),
    (MYSQL | {"STORE_URL": "mysql://u@db/longwave"}, "LONGWAVE_STORE_TLS=verify"),
    (MYSQL | {"STORE_REPLICA_URL": "mysql://u@db/longwave"}, "LONGWAVE_STORE_REPLICA_URL"),
    ({"REDIS_URL": "redis://localhost"}, "nobody need tell"),
    (MYSQL | {"REDIS_CACHE": "true"}, "LONGWAVE_REDIS_CACHE is on without LONGWAVE_REDIS_URL"),
    (MYSQL | {"REDIS_URL": "redis://u:secret@localhost"}, "LONGWAVE_REDIS_PASSWORD"),
    (MYSQL | {"REDIS_URL": "redis://u@localhost"}, "names a user"),
    (MYSQL | {"REDIS_URL": "http://localhost"}, "write redis://"),
    (MYSQL | {"REDIS_URL": "redis://one,two"}, "write redis://"),
    (MYSQL | {"REDIS_URL": "redis+sentinel://one,two"}, "write redis://"),
    (MYSQL | {"REDIS_URL": "redis+cluster://localhost/service"}, "write redis://"),
    (MYSQL | {"REDIS_URL": "redis+other://localhost"}, "write redis://"),
    (MYSQL | {"REDIS_URL": "redis+cluster://[::1:6379"}, "write redis://"),
    (MYSQL | {"REDIS_URL": "redis://localhost", "REDIS_SENTINEL_PASSWORD": "x"}, "names no Sentinels"),
    (MYSQL | {"REDIS_URL": "redis+sentinel://localhost,far/service", "REDIS_PASSWORD": "x"}, "in the clear"),
    (MYSQL | {"REDIS_URL": "redis://cache:6379", "REDIS_PASSWORD": "x"}, "in the clear"),
    (MYSQL | {"REDIS_URL": "rediss://cache:6379"}, "LONGWAVE_REDIS_PASSWORD is not set"),
    (MYSQL | {"STORE_PASSWORD": SECRET, "STORE_PASSWORD_FILE": "p"}, "LONGWAVE_STORE_PASSWORD_FILE are both set"),
    (MYSQL | {"STORE_TLS": "verify", "STORE_TLS_CERT_FILE": "c"}, "LONGWAVE_STORE_TLS_KEY_FILE: set both or neither"),
    (MYSQL | {"STORE_TLS": "verify", "STORE_TLS_KEY_FILE": "k"}, "LONGWAVE_STORE_TLS_CERT_FILE: set both or neither"),
    (MYSQL | {"STORE_TLS_CERT_FILE": "c", "STORE_TLS_KEY_FILE": "k"}, "set LONGWAVE_STORE_TLS=verify"),
    (REDIS | {"REDIS_PASSWORD": SECRET, "REDIS_PASSWORD_FILE": "p"}, "LONGWAVE_REDIS_PASSWORD_FILE are both set"),
    (REDIS | {"REDIS_SENTINEL_PASSWORD_FILE": "p"}, "names no Sentinels"),
    (
        SENTINEL | {"REDIS_SENTINEL_PASSWORD": SECRET, "REDIS_SENTINEL_PASSWORD_FILE": "p"},
        "LONGWAVE_REDIS_SENTINEL_PASSWORD_FILE are both set",
    ),
    (REDIS | {"REDIS_TLS_CERT_FILE": "c"}, "LONGWAVE_REDIS_TLS_KEY_FILE: set both or neither"),
    (REDIS | {"REDIS_TLS_KEY_FILE": "k"}, "LONGWAVE_REDIS_TLS_CERT_FILE: set both or neither"),
    (
        REDIS | {"REDIS_URL": "redis://localhost", "REDIS_TLS_CERT_FILE": "c", "REDIS_TLS_KEY_FILE": "k"},
        "write rediss in LONGWAVE_REDIS_URL",
    ),
    (MYSQL | {"SECRET_FILE": ""}, "LONGWAVE_SECRET_FILE"),
    (MYSQL | {"STORE_CONNECTIONS_MIN": "21"}, "LONGWAVE_STORE_CONNECTIONS_MAX"),
    ({"STORE_URL": "sqlite:///:memory:"}, "name a file"),
    ({"STORE_URL": "sqlite:///"}, "name a file"),
]


@pytest.mark.parametrize(("variables", "sentence"), CONTRADICTIONS)
def test_a_contradiction_says_what_to_change(load: Load, variables: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(**variables)
    assert len(refused.value.problems) == 1
    assert sentence in refused.value.problems[0]
    assert SECRET not in str(refused.value)
    assert "u:p" not in str(refused.value)


BOUNDS = [
    ("REQUEST_ID_RETENTION_H", "71"),
    ("WEBHOOK_EVENT_RETENTION_DAYS", "6"),
    ("EARLY_RECEIPT_RETENTION_H", "71"),
    ("REGISTRY_REVALIDATE_MS", "2001"),
    ("DURABILITY_CHECK_S", "11"),
    ("GROUP_LINGER_MS", "101"),
    ("IN_FLIGHT_MAX", "0"),
    ("LEASE_S", "inf"),
    ("LEASE_S", "soon"),
    ("PROVIDER", "other"),
    ("REFLECTION", "perhaps"),
    ("TELNYX_PUBLIC_KEY", "not base64"),
    ("TELNYX_PUBLIC_KEY", base64.b64encode(b"short").decode()),
    ("TELNYX_PUBLIC_KEY", f"{KEY_A},{KEY_B},{KEY_A}"),
    ("TELNYX_PUBLIC_KEY", base64.b64encode(bytes(32)).decode()),
    ("TELNYX_PUBLIC_KEY", f"{KEY_A},{base64.b64encode(bytes(32)).decode()}"),
]


@pytest.mark.parametrize(("name", "value"), BOUNDS)
def test_a_value_out_of_bounds_is_refused_by_its_variable(load: Load, name: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(**{name: value})
    assert [problem.partition(":")[0] for problem in refused.value.problems] == [f"LONGWAVE_{name}"]


def test_all_problems_are_told_at_once(load: Load) -> None:
    with pytest.raises(ConfigError) as refused:
        load(SEND_S="20", HELD_MESSAGES_MAX="10", GRPC_ADRESS="x")
    assert len(refused.value.problems) == 3


@pytest.mark.parametrize(
    ("name", "nearest"), [("GRPC_ADRESS", "LONGWAVE_GRPC_ADDRESS"), ("CONFIGFILE", "LONGWAVE_CONFIG_FILE")]
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(load: Load, name: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"LONGWAVE_{name} is not a setting: did you mean {nearest}"):
        load(**{name: "1"})


def test_the_environment_wins_over_the_file_and_each_value_knows_its_source(load: Load, tmp_path: Path) -> None:
    file = tmp_path / "longwave.toml"
    file.write_text("in_flight_max = 5\nattempts_max = 3\n")
    settings = load(CONFIG_FILE=str(file), ATTEMPTS_MAX="4")
    assert (settings.in_flight_max, settings.attempts_max) == (5, 4)
    sources = {setting.field: setting.source for setting in describe(settings)}
    assert (sources["in_flight_max"], sources["attempts_max"], sources["send_s"]) == ("file", "environment", "default")


def test_a_variable_that_looks_like_none_gets_no_suggestion(load: Load) -> None:
    with pytest.raises(ConfigError, match="LONGWAVE_TYPO is not a setting: run longwave config"):
        load(TYPO="x")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("in_flight_maxx = 5", "in_flight_maxx is not a setting: did you mean in_flight_max"),
        ("in_flight_max =", "not TOML"),
        ("in_flight_max = 0", "LONGWAVE_IN_FLIGHT_MAX"),
        ("send_s = 20\ndrain_s = 30", "raise the lease"),
    ],
)
def test_a_bad_file_is_refused(load: Load, tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "longwave.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match="(?s)" + sentence):
        load(CONFIG_FILE=str(file))


def test_a_missing_file_is_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="LONGWAVE_CONFIG_FILE"):
        load(CONFIG_FILE=str(tmp_path / "absent.toml"))


def test_an_empty_variable_of_an_optional_setting_is_unset(load: Load) -> None:
    settings = load(WEBHOOK_BASE_URL="", API_KEY="", SECRET_FILE="", TELNYX_PUBLIC_KEY="")
    assert (settings.webhook_base_url, settings.api_key, settings.secret_file) == (None, None, None)
    assert settings.telnyx_public_key == ()


def test_two_public_keys_are_live(load: Load) -> None:
    assert load(TELNYX_PUBLIC_KEY=f"{KEY_A}, {KEY_B}").telnyx_public_key == (KEY_A, KEY_B)


def test_insecure_allows_what_is_in_the_clear(load: Load) -> None:
    settings = load(GRPC_ADDRESS="0.0.0.0:50051", WEBHOOK_BASE_URL="http://sms.example.com/hooks/", INSECURE="true")
    assert settings.callback_base_url == "http://sms.example.com/hooks"


def test_tls_allows_any_address(load: Load) -> None:
    assert load(GRPC_ADDRESS="0.0.0.0:1", GRPC_TLS_CERT_FILE="a", GRPC_TLS_KEY_FILE="b").grpc_address == "0.0.0.0:1"


def test_the_simulated_carrier_needs_no_public_callback(load: Load) -> None:
    settings = load(TELNYX_BASE_URL="http://127.0.0.1:9", TELNYX_API_KEY=SECRET, TELNYX_PUBLIC_KEY=KEY_A)
    assert settings.callback_base_url == "http://127.0.0.1:8081"


def test_secrets_are_hidden_wherever_settings_are_shown(load: Load) -> None:
    settings = load(
        API_KEY=SECRET,
        TELNYX_API_KEY=SECRET,
        TELNYX_PUBLIC_KEY=KEY_A,
        TELNYX_BASE_URL="http://127.0.0.1:9",
    )
    shown = {setting.field: setting.value for setting in describe(settings)}
    assert (shown["api_key"], shown["telnyx_api_key"]) == ("(hidden)", "(hidden)")
    assert SECRET not in repr(settings) + str(shown)
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == SECRET


def test_every_setting_is_described_and_listed(load: Load) -> None:
    listed = describe(load())
    assert [setting.field for setting in listed] == list(Settings.model_fields)
    assert all(setting.description.endswith((".", "them")) for setting in listed)
    reference = reference_markdown()
    assert all(f"| `{setting.name}` |" in reference for setting in listed)
    assert "≤ 2,000" in reference


def test_a_limit_ends_in_its_unit() -> None:
    units = ("_ms", "_s", "_min", "_h", "_days", "_mib", "_bytes", "_max", "_percent", "_ratio", "_messages", "_calls")
    numbers = [name for name, field in Settings.model_fields.items() if field.annotation in {int, float}]
    assert len(numbers) > 30
    assert [name for name in numbers if not name.endswith((*units, "_attempts_min"))] == []


@pytest.mark.parametrize(("address", "parts"), [("[::1]:8080", ("::1", 8080)), ("localhost:0", ("localhost", 0))])
def test_an_address_is_split(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


def test_a_store_on_a_server_needs_no_more_than_its_url_and_a_secret_file(load: Load) -> None:
    settings = load(**MYSQL, STORE_PASSWORD="spoken-softly")
    assert not settings.store_is_embedded
    assert settings.secrets_path == Path("longwave.secrets")
    shown = {setting.field: setting.value for setting in describe(settings)}
    assert shown["store_password"] == "(hidden)"
    assert "spoken-softly" not in str(shown)


def test_a_password_in_a_file_is_as_good_as_one_in_the_environment(load: Load) -> None:
    """For a user, and for a Redis beyond this machine; the file itself is read at the start."""
    settings = load(**MYSQL, REDIS_URL="rediss://u@cache:6379", REDIS_PASSWORD_FILE="p", STORE_PASSWORD_FILE="")
    assert (settings.redis_password_file, settings.store_password_file) == (Path("p"), None)


def test_roles_are_named_in_any_order(load: Load) -> None:
    assert load(**MYSQL, ROLES="receipts, ingest").roles == ("ingest", "receipts")
    with pytest.raises(ConfigError, match="LONGWAVE_ROLES: is 'dispatch,cook': name some of ingest, dispatch"):
        load(**MYSQL, ROLES="dispatch,cook")
