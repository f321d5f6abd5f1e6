"""Every setting of a Longwave process: its name, unit, default, bounds and reason, and what may not be combined.

It opens no socket, store or key; it reads the environment and at most one TOML file (`LONGWAVE_CONFIG_FILE`). The
environment wins over the file. `engine/config_listing.py` prints what is in force.

Invariants: an unknown name is refused, never ignored; a limit carries its unit last; a secret is a `SecretStr`.
"""

import base64
import binascii
import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

from engine.config_checks import contradictions
from engine.errors import ConfigError
from engine.stores.connection import store_path

PREFIX: Final = "LONGWAVE_"
FILE_VARIABLE: Final = "LONGWAVE_CONFIG_FILE"
PUBLIC_KEY_BYTES: Final = 32
PUBLIC_KEYS_MAX: Final = 2
MIB: Final = 1024 * 1024
ROLES: Final = ("ingest", "dispatch", "receipts", "admin")

Count = Annotated[int, Field(ge=1)]


class Settings(BaseSettings):
    """What is in force. Make one with `load_settings`, which also refuses unknown names and explains every problem."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )
    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    # -- store ---------------------------------------------------------------------------------------------------------
    store_url: str = Field(
        "sqlite:///./longwave.db",
        description="Where messages are kept: sqlite:///FILE (relative), sqlite:////FILE (absolute), or "
        "mysql://user@host:port/database of MySQL 8 or MariaDB 10.6 and newer.",
    )
    store_password: SecretStr | None = Field(
        None, description="Password of the MySQL store's user; never part of LONGWAVE_STORE_URL."
    )
    store_password_file: Path | None = Field(
        None,
        description="File that holds that password alone, one final newline aside, in place of "
        "LONGWAVE_STORE_PASSWORD; read at the start.",
    )
    store_durability: Literal["D1", "D2"] = Field(
        "D1",
        description="What an accepted message survives: D1 the death of the store's process and machine; D2 the "
        "loss of a MySQL primary, too, which needs semi-synchronous replication that waits before the commit.",
    )
    store_tls: Literal["off", "verify", "encrypt"] = Field(
        "off",
        description="TLS to the MySQL store: verify checks its certificate and name, encrypt checks neither.",
    )
    store_tls_ca_file: Path | None = Field(
        None, description="PEM authorities of the MySQL store's certificate; unset: those of the system."
    )
    store_tls_cert_file: Path | None = Field(
        None,
        description="PEM certificate, its chain behind it, that is shown to the MySQL store and its replica; needs the "
        "key, and LONGWAVE_STORE_TLS.",
    )
    store_tls_key_file: Path | None = Field(
        None, description="PEM private key of that certificate, without a passphrase; needs the certificate."
    )
    store_replica_url: str = Field(
        "",
        description="mysql://user@host:port/database of a replica that answers GetMessage and ListMessages, with the "
        "same password, while it is there and fresh. Unset: the primary answers.",
    )
    store_replica_lag_s: float = Field(
        5,
        gt=0,
        le=60,
        description="Seconds that the replica may be behind; beyond, the primary answers. A message that the replica "
        "does not know yet is looked for on the primary.",
    )
    store_connections_min: int = Field(
        5, ge=1, le=1000, description="Connections to the MySQL store that are opened at the start."
    )
    store_connections_max: int = Field(
        20,
        ge=4,
        le=1000,
        description="Connections to the MySQL store at most, beside three: two write, four read for the engine itself, "
        "callers who look up and watch share the others (one at least).",
    )
    store_connect_s: float = Field(
        3,
        gt=0,
        le=60,
        description="Seconds for name look-up, TCP, TLS and log-in of one connection to the MySQL store.",
    )
    store_statement_s: float = Field(
        10,
        gt=0,
        le=600,
        description="Seconds for one statement of the MySQL store; then its connection is given up and the transaction "
        "runs again.",
    )
    redis_url: str = Field(
        "",
        description="redis://[user@]host:port of a Redis over which nodes that share a MySQL store tell each other at "
        "once that something was committed; redis+sentinel://[user@]host:port,host:port/service where Sentinels name "
        "the primary, redis+cluster://[user@]host:port,host:port for a Cluster; rediss in place of redis with TLS. It "
        "holds nothing that is needed: unset or away, nodes find out by looking, up to 50 ms later. Beyond this "
        "machine it needs TLS and a password.",
    )
    redis_password: SecretStr | None = Field(
        None, description="Password of that Redis; never part of LONGWAVE_REDIS_URL."
    )
    redis_password_file: Path | None = Field(
        None,
        description="File that holds that password alone, one final newline aside, in place of "
        "LONGWAVE_REDIS_PASSWORD; read at the start.",
    )
    redis_sentinel_password: SecretStr | None = Field(
        None, description="Password of the Sentinels, where they ask for one; the primary's is LONGWAVE_REDIS_PASSWORD."
    )
    redis_sentinel_password_file: Path | None = Field(
        None, description="File that holds that password alone, in place of LONGWAVE_REDIS_SENTINEL_PASSWORD."
    )
    redis_tls_ca_file: Path | None = Field(
        None, description="PEM authorities of that Redis's certificate, believed beside those of the system."
    )
    redis_tls_cert_file: Path | None = Field(
        None,
        description="PEM certificate, its chain behind it, that is shown to Redis: to the server, to Sentinels and "
        "primary, to each node of a Cluster; needs the key, and rediss in the URL.",
    )
    redis_tls_key_file: Path | None = Field(
        None, description="PEM private key of that certificate, without a passphrase; needs the certificate."
    )
    cache_bytes: int = Field(
        16 * MIB,
        ge=0,
        le=4096 * MIB,
        description="Bytes of memory for answers to GetMessage about messages that never change again, for at most "
        "300 s; the least recently used go first. 16 MiB hold some 15,000. 0 keeps none.",
    )
    redis_cache: bool = Field(
        default=False,
        description="Keeps answers to GetMessage about messages that never change again in that Redis, too, sealed, "
        "for 300 s each, so that a node finds what another read. Needs LONGWAVE_REDIS_URL, and rights beyond those of "
        "hints.",
    )
    redis_wait_ms: int = Field(
        250,
        ge=10,
        le=5000,
        description="Milliseconds for a connection to Redis and for its answers. No call waits for them, but with "
        "LONGWAVE_REDIS_CACHE a GetMessage: so long at most, then the store answers.",
    )
    migrate_backup_folder: Path | None = Field(
        None,
        description="Folder for the dump that `longwave migrate` takes and verifies before it changes a MySQL store "
        "that holds data; dumps of more than 7 days ago are removed from it.",
    )
    migrate_backup_command: str = Field(
        "",
        description="Command that `longwave migrate` runs in place of a dump, a snapshot of the server say: without a "
        "shell, successful when it exits with 0; the last line it says is written down.",
    )
    node: int | None = Field(
        None,
        ge=0,
        le=1023,
        description="Number of this node in the ids it gives to messages: different for each one that shares a store. "
        "Unset, a node takes the lowest one that nobody uses; set, one that is started again where it ran before takes "
        "over from its former life at once.",
    )
    roles: Annotated[tuple[str, ...], NoDecode] = Field(
        ROLES,
        description="What this process does, a comma list: ingest takes messages and opt-outs, dispatch competes for "
        "sending, receipts listens for webhooks, admin serves the registry. An embedded store has all in one process.",
    )
    reserve_file_mib: int = Field(
        64,
        ge=0,
        le=65536,
        description="MiB set aside beside an embedded store and given back when the disk fills up, so that intents, "
        "outcomes and receipts of what is held still commit; 0 keeps none.",
    )
    durability_check_s: float = Field(
        10,
        gt=0,
        le=10,
        description="Seconds between two looks at the store's durability settings; at most 10, as the promise says.",
    )
    secret_file: Path | None = Field(
        None,
        description="File (mode 0600, or root's with mode 0440, as Kubernetes mounts secrets) with the keys of API-key "
        "hashes and callback MACs, two live each; unset: "
        "FILE.secrets beside an embedded store, made when missing. A MySQL store needs it named.",
    )

    # -- addresses -----------------------------------------------------------------------------------------------------
    grpc_address: str = Field("127.0.0.1:50051", description="host:port of the gRPC API; port 0 takes a free one.")
    edge: Literal["grpcio", "native"] = Field(
        "grpcio",
        description="What serves the gRPC API: grpcio, or native, the engine's own edge over a sans-I/O HTTP/2, which "
        "takes several times as many single calls a second.",
    )
    http_address: str = Field(
        "127.0.0.1:8080", description="host:port of operations only (/metrics, /health, /ready, /admin/stats)."
    )
    webhook_address: str = Field(
        "127.0.0.1:8081",
        description="host:port where the provider calls back; the only one ever exposed to the internet.",
    )
    webhook_base_url: str | None = Field(
        None,
        description="URL at which the provider reaches LONGWAVE_WEBHOOK_ADDRESS from outside; unset: "
        "http://LONGWAVE_WEBHOOK_ADDRESS, which only a carrier on this machine can reach.",
    )
    grpc_tls_cert_file: Path | None = Field(None, description="PEM certificate chain of the gRPC API; needs the key.")
    grpc_tls_key_file: Path | None = Field(None, description="PEM private key of the gRPC API; needs the certificate.")
    grpc_tls_client_ca_file: Path | None = Field(
        None, description="PEM authorities whose client certificates the gRPC API requires; unset: none are asked for."
    )
    insecure: bool = Field(
        default=False,
        description="Allows what would carry keys or texts in the clear beyond this machine: gRPC without TLS on an "
        "address that is not loopback, plain http to the provider or from it.",
    )
    reflection: bool = Field(
        default=True,
        description="Serves gRPC reflection, so that grpcurl needs no proto files; turn off to hide the API.",
    )
    api_key: SecretStr | None = Field(None, description="API key that the command line and the SDK present.")

    # -- provider ------------------------------------------------------------------------------------------------------
    provider: Literal["telnyx"] = Field("telnyx", description="Carrier API that messages leave through.")
    telnyx_base_url: str = Field(
        "https://api.telnyx.com/v2", description="Base URL of Telnyx's API; the simulated carrier has another."
    )
    telnyx_api_key: SecretStr | None = Field(None, description="Telnyx API key; unset: messages are held, not sent.")
    telnyx_public_key: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Base64 Ed25519 keys (32 bytes each) that verify Telnyx's webhooks; a comma list of at most two, "
        "so that a key can be rotated.",
    )
    telnyx_honours_keys: bool = Field(
        default=False,
        description="Whether the provider drops a second send with the same idempotency key. Allows replay of attempts "
        "whose outcome is unknown; off for Telnyx until proved against the live service.",
    )

    # -- admit and append ----------------------------------------------------------------------------------------------
    held_messages_max: Count = Field(
        1_000_000,
        description="Messages in memory; what waits beyond it stays in the store and is read back in order. At about "
        "350 bytes each, a million take 350 MB. Messages for a later time may use half; beyond that they are refused "
        "with QUEUE_FULL.",
    )
    batch_messages_max: int = Field(
        1000, ge=1, le=100_000, description="Messages in one SubmitMessages call; a whole batch must fit one group."
    )
    request_bytes_max: int = Field(
        4 * MIB,
        ge=64 * 1024,
        le=256 * MIB,
        description="Bytes of one gRPC request; 4 MiB is what a batch of 1,000 long texts needs several times over.",
    )
    stream_credit_messages: Count = Field(
        2000, description="Messages a stream may have in flight; twice a batch keeps the next one on its way."
    )
    max_concurrent_calls: int = Field(
        20_000,
        ge=1,
        description="gRPC calls being served at once, streams included; beyond it TOO_MANY_CALLS. Each waiting unary "
        "call costs about 10 KiB.",
    )
    connection_calls_max: int = Field(
        128,
        ge=1,
        description="gRPC calls at once on one connection, streams included; a client holds further ones back. "
        "It bounds what one connection can make others wait for.",
    )
    connection_age_s: float = Field(
        600,
        ge=1,
        le=86_400,
        description="Seconds that a gRPC connection lives, give or take a tenth; then its client is asked to open "
        "another, which may go to another node, and calls that are open get ten minutes to end. Nodes that are added "
        "get clients within about this time.",
    )
    connection_given_up_max: Count = Field(
        256,
        description="gRPC calls a second that one connection may give up (reset, or past their deadline) unanswered; "
        "beyond it the connection is ended, and for a minute so is one of its address (of its /64 in IPv6) that gives "
        "up more than 16 a second and one in eight of its calls.",
    )
    group_linger_ms: float = Field(
        5,
        ge=0,
        le=100,
        description="Milliseconds a group commit waits for company at most, while calls keep coming; a call that comes "
        "alone waits for nobody. Adds to the latency of accepts, so at most 100.",
    )
    queue_target_ms: float = Field(
        100,
        ge=0,
        le=10_000,
        description="Milliseconds that calls may stand in line for their group commit: where the line is longer all "
        "through a tenth of a second, the least urgent are answered OVERLOADED, the more the longer it is and the "
        "faster it grew. 0 sheds nothing.",
    )
    group_messages_max: Count = Field(
        5000, description="Messages in one group commit; bounds how long one commit holds the only writer."
    )

    # -- dispatch ------------------------------------------------------------------------------------------------------
    in_flight_max: Count = Field(
        256,
        description="Attempts at the provider at once. Intents never exceed it: a kill makes at most so many UNKNOWN.",
    )
    connections_max: Count = Field(
        256, description="Connections to the provider; HTTP/1.1 carries one attempt on each, so at least in_flight_max."
    )
    connect_s: float = Field(3, gt=0, description="Seconds for name look-up, TCP and TLS of one connection.")
    send_s: float = Field(15, gt=0, description="Seconds for one whole attempt, connect included; then it is UNKNOWN.")
    lease_s: float = Field(30, gt=0, description="Seconds a node's number, and its lease on its shards, last.")
    heartbeat_s: float = Field(5, gt=0, description="Seconds between two renewals of the lease.")
    margin_s: float = Field(5, gt=0, description="Seconds of lease that must be left beyond send_s when bytes leave.")
    reconcile_wait_s: float = Field(
        60, gt=0, description="Seconds to wait for evidence about an UNKNOWN attempt before its policy decides."
    )
    lookup_after_min: float = Field(
        30, gt=0, description="Minutes without a final receipt after which the message is looked up at the provider."
    )
    lookup_after_restart_s: float = Field(
        60,
        gt=0,
        description="Seconds after a start from which taken messages are looked up, 50 a second: their receipts may "
        "have been lost while nobody listened.",
    )
    no_receipt_after_h: float = Field(
        72, gt=0, description="Hours without a final receipt after which a taken message ends NO_RECEIPT."
    )
    attempts_max: int = Field(
        8, ge=1, le=100, description="Attempts refused for now after which a message ends FAILED."
    )
    backoff_base_ms: int = Field(
        500, ge=1, description="Milliseconds of the first back-off; doubles, with full jitter."
    )
    backoff_cap_s: float = Field(300, gt=0, description="Seconds at which the back-off stops doubling.")
    retry_budget_percent: float = Field(
        10,
        ge=0,
        le=100,
        description="Retries per 100 messages that a provider takes, beside ten a second; a provider that refuses more "
        "than that for now is offered no more than this.",
    )
    breaker_window_s: float = Field(30, gt=0, description="Seconds of attempts that the circuit breaker looks back on.")
    breaker_attempts_min: Count = Field(
        20, description="Attempts in the window below which the breaker stays closed: fewer say nothing."
    )
    breaker_failure_percent: float = Field(
        50, gt=0, le=100, description="Failed attempts per 100 in the window that open the breaker."
    )
    breaker_open_s: float = Field(
        10, gt=0, description="Seconds an open breaker waits before it lets one probe through."
    )

    # -- retention -----------------------------------------------------------------------------------------------------
    message_retention_days: float = Field(
        90,
        ge=7,
        description="Days that a message stays after it was accepted, with its text and its timeline; one that may "
        "still move stays longer, and each at least 7 days behind its last attempt. A MySQL store drops whole days "
        "(UTC) when nothing in them is to stay.",
    )
    event_retention_days: float = Field(7, ge=1, description="Days that events stay for WatchEvents to resume from.")
    request_id_retention_h: float = Field(
        72, ge=72, description="Hours a request_id is remembered after acceptance; at least 72, as promised."
    )
    webhook_event_retention_days: float = Field(
        7, ge=7, description="Days a webhook's event id is remembered against replay; at least 7, as promised."
    )
    early_receipt_retention_h: float = Field(
        72, ge=72, description="Hours a receipt waits for the attempt it belongs to; at least 72, as promised."
    )
    registry_revalidate_ms: int = Field(
        2000,
        ge=10,
        le=2000,
        description="Milliseconds between two looks at the registry's version; at most 2,000, as promised.",
    )

    # -- operations ----------------------------------------------------------------------------------------------------
    drain_s: float = Field(20, gt=0, description="Seconds after SIGTERM for calls and attempts in flight to end.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")

    # -- traces --------------------------------------------------------------------------------------------------------
    traces_endpoint: str = Field(
        "",
        description="URL that takes spans by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces; needs the extra "
        "`traces`. Unset: nothing is traced, and nothing is spent on it.",
    )
    traces_ratio: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of messages that are traced, picked by their ids, so give it to all nodes alike; and of "
        "calls whose callers do not decide.",
    )
    traces_parent_based: bool = Field(
        default=True,
        description="Whether a call that brings a `traceparent` is traced exactly when its caller traces. Off, where "
        "callers are not to decide what is spent: then LONGWAVE_TRACES_RATIO does.",
    )
    traces_queue_spans_max: int = Field(
        16_384,
        ge=512,
        le=1_000_000,
        description="Spans that wait to be sent, some 1.5 KiB each; beyond it they are dropped and counted. 16,384 "
        "last a second at 1,700 traced messages a second, each with some ten.",
    )
    traces_export_s: float = Field(
        5,
        gt=0,
        le=60,
        description="Seconds for sending one batch of spans, its repeats included; then it is given up and counted.",
    )

    # -- seams for tests -----------------------------------------------------------------------------------------------
    failpoint: str = Field(
        "", description="name:kill[@n] or name:raise[@n] at the n-th passing of a failpoint (comma list); for tests."
    )
    history_file: Path | None = Field(
        None, description="File that gets one JSON line for each stage's step, without texts; for checkers in tests."
    )
    clock_offset_ms: int = Field(0, description="Milliseconds added to the wall clock; for tests of clock faults.")

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment, then what `load_settings` took from the file; no .env and no secrets folder."""
        del settings_cls, dotenv_settings, file_secret_settings
        return (env_settings, init_settings)

    @field_validator("telnyx_public_key", "roles", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("roles")
    @classmethod
    def _are_roles(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [role for role in value if role not in ROLES]
        if unknown or not value:
            message = f"is {','.join(value)!r}: name some of {', '.join(ROLES)}"
            raise ValueError(message)
        return tuple(role for role in ROLES if role in value)

    @field_validator("telnyx_public_key")
    @classmethod
    def _is_public_key(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > PUBLIC_KEYS_MAX:
            message = f"{len(value)} keys given, at most {PUBLIC_KEYS_MAX} are live at once: drop the oldest"
            raise ValueError(message)
        for number, key in enumerate(value, 1):
            try:
                raw = base64.b64decode(key, validate=True)
            except binascii.Error:
                raw = b""
            if len(raw) != PUBLIC_KEY_BYTES:
                message = f"key {number} is not {PUBLIC_KEY_BYTES} bytes in base64: copy it from the provider's portal"
                raise ValueError(message)
            if not any(raw):
                # The chart's: with it every receipt and every STOP would be refused, and nothing else would fail.
                message = f"key {number} is a placeholder that verifies nothing: copy yours from the provider's portal"
                raise ValueError(message)
        return value

    @field_validator(
        "webhook_base_url", "secret_file", "store_password", "store_password_file", "store_tls_ca_file",
        "store_tls_cert_file", "store_tls_key_file", "redis_password", "redis_password_file",
        "redis_sentinel_password", "redis_sentinel_password_file", "redis_tls_ca_file", "redis_tls_cert_file",
        "redis_tls_key_file", "history_file", "api_key", "telnyx_api_key", "grpc_tls_cert_file", "grpc_tls_key_file",
        "grpc_tls_client_ca_file", mode="before",
    )  # fmt: skip
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        # Container manifests cannot leave a variable out; they set it empty.
        return None if value == "" else value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        problems = contradictions(self)
        if problems:
            raise ContradictionError(problems)
        return self

    @property
    def store_is_embedded(self) -> bool:
        """Whether messages are kept in a file of this machine."""
        return not self.store_url.startswith("mysql:")

    @property
    def store_file(self) -> Path:
        """The embedded store's file. Raises ConfigError for another kind."""
        return store_path(self.store_url)

    @property
    def secrets_path(self) -> Path:
        """The secret file; beside an embedded store unless named."""
        return self.secret_file or self.store_file.with_name(self.store_file.name + ".secrets")

    @property
    def callback_base_url(self) -> str:
        """Where the provider calls back, without a final slash."""
        return (self.webhook_base_url or f"http://{self.webhook_address}").rstrip("/")

    def source_of(self, name: str) -> str:
        """Where the value of this field came from: `default`, `environment` or `file`."""
        return self._sources.get(name, "default")


class ContradictionError(ValueError):
    """Settings that are fine each, but not together."""

    def __init__(self, problems: list[str]) -> None:
        """Keep the sentences."""
        super().__init__("\n".join(problems))
        self.problems = problems


def variable(field: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field.upper()


def load_settings() -> Settings:
    """Settings from the environment and the file it names.

    Raises ConfigError with one sentence per problem: unknown names (with the nearest known one), values out of bounds,
    contradictions. No sentence holds a secret.
    """
    problems: list[str] = []
    from_file = _file_values(os.environ.get(FILE_VARIABLE, ""), problems)
    known = list(Settings.model_fields)
    variables = [variable(name) for name in known]
    variables.append(FILE_VARIABLE)
    given = sorted(name for name in os.environ if name.startswith(PREFIX))
    problems += [_unknown(name, variables) for name in given if name not in variables]
    problems += [_unknown(name, known) for name in sorted(from_file) if name not in known]
    values = {name: value for name, value in from_file.items() if name in known}
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError(problems + _sentences(error)) from None
    if problems:
        raise ConfigError(problems)
    for name in known:
        if variable(name) in os.environ:
            settings._sources[name] = "environment"  # noqa: SLF001 - the class keeps it, only loading knows it
        elif name in values:
            settings._sources[name] = "file"  # noqa: SLF001
    return settings


def _file_values(name: str, problems: list[str]) -> Mapping[str, Any]:
    if not name:
        return {}
    try:
        return tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{FILE_VARIABLE} names {name!r}: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{FILE_VARIABLE} names {name!r}, which is not TOML: {error}")
    return {}


def _unknown(name: str, known: list[str]) -> str:
    # Without the prefix that all share, or everything looks alike.
    bare = {candidate.removeprefix(PREFIX): candidate for candidate in known}
    nearest = [bare[found] for found in get_close_matches(name.removeprefix(PREFIX), bare, n=1)]
    return f"{name} is not a setting" + (f": did you mean {nearest[0]}?" if nearest else ": run longwave config")


def _sentences(error: ValidationError) -> list[str]:
    sentences: list[str] = []
    for problem in error.errors(include_url=False, include_input=False):
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, ContradictionError):
            sentences += cause.problems
        else:
            name = variable(str(problem["loc"][0])) if problem["loc"] else FILE_VARIABLE
            said = str(cause) if cause is not None else problem["msg"]
            sentences.append(f"{name}: {said[:1].lower()}{said[1:]}")
    return sentences
