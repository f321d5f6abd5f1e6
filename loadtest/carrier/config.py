"""The settings of the simulated carrier: every fault, cap and bound, read from JSON and checked.

It decides nothing about a message (see `fate.py`) and reads no environment.

Invariants: a `Config` is frozen and complete; the shares of all answer faults together are at most 1; unknown keys are
refused, so that a misspelt fault cannot silently do nothing. Shares are 0 to 1, times have their unit in the name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from loadtest.carrier.urls import is_webhook_url

Idempotency = Literal["honoured", "forgets_failed", "ignored"]
GarbageKind = Literal[
    "html", "bad_json", "no_id", "endless", "length_long", "length_short", "drip", "bad_gzip", "bad_charset"
]
CapScope = Literal["global", "from", "campaign"]
CapPeriod = Literal["minute", "day"]
CapUnit = Literal["parts", "messages"]
FinalStatus = Literal["delivered", "sending_failed", "delivery_failed", "delivery_unconfirmed", "expired"]

GARBAGE_KINDS: Final[tuple[GarbageKind, ...]] = get_args(GarbageKind)
# What only start-up may set: the rings are laid out once.
FIXED_KEYS: Final = frozenset({"records_max", "messages_max"})
# Shares of the answer to a send request. They are disjoint parts of one draw, hence the sum of at most 1.
ANSWER_SHARES: Final = (
    "error_share",
    "throttle_share",
    "silence_untaken_share",
    "silence_taken_share",
    "drop_untaken_share",
    "drop_taken_share",
    "drop_midway_share",
    "late_error_share",
    "garbage_share",
)


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type or out of range; the text names it."""


@dataclass(frozen=True, slots=True)
class RefusalMix:
    """One refusal given before taking the message: HTTP status, provider code, weight among its like."""

    status: int
    code: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class FailureMix:
    """One final state other than delivered; `code` empty means the receipt carries no error."""

    code: str
    status: FinalStatus = "delivery_failed"
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Cap:
    """A limit of a recipient's carrier: at most `amount` parts or messages in any 60 s, or in a day of `time_zone`.

    `scope` counts per sending number, per campaign (see `Config.campaigns`) or everything together. Excess is taken
    and fails later with `code` when `status` is 0, else it is refused at once with that HTTP status and `code`.
    """

    name: str
    amount: int
    code: str
    carrier: str | None = None
    scope: CapScope = "global"
    period: CapPeriod = "minute"
    unit: CapUnit = "parts"
    status: int = 0
    time_zone: str = "America/Los_Angeles"


@dataclass(frozen=True, slots=True)
class Config:
    """All settings with their defaults: everything goes well, quickly."""

    seed: int = 1
    # HTTP answer: bounded distribution with exactly this mean (see fate.spread).
    latency_min_ms: float = 5.0
    latency_mean_ms: float = 5.0
    latency_max_ms: float = 5.0
    # Answers other than success.
    error_share: float = 0.0
    errors: tuple[RefusalMix, ...] = (RefusalMix(503, "10037"), RefusalMix(500, "10007"), RefusalMix(400, "40310"))
    throttle_share: float = 0.0
    retry_after_s: int = 1
    silence_untaken_share: float = 0.0
    silence_taken_share: float = 0.0
    drop_untaken_share: float = 0.0
    drop_taken_share: float = 0.0
    drop_midway_share: float = 0.0
    late_error_share: float = 0.0
    late_error_statuses: tuple[int, ...] = (500, 502, 503, 504)
    garbage_share: float = 0.0
    garbage_kinds: tuple[GarbageKind, ...] = GARBAGE_KINDS
    # What happens to a repeated key: honoured = every taken message is remembered; forgets_failed = only when its
    # answer was a complete 2xx (a late 5xx leads to a second message); ignored = keys mean nothing.
    idempotency: Idempotency = "honoured"
    # What the recipient's network says later.
    async_failure_share: float = 0.0
    async_failures: tuple[FailureMix, ...] = (FailureMix("40008"), FailureMix("40001"), FailureMix("40006"))
    caps: tuple[Cap, ...] = ()
    campaigns: Mapping[str, str] = field(default_factory=dict)
    carriers: Mapping[str, float] = field(
        default_factory=lambda: {"AT&T": 0.35, "T-Mobile": 0.30, "Verizon": 0.30, "US Cellular": 0.05}
    )
    # Receipts: message.sent after one delay, message.finalized after another one.
    receipt_delay_min_ms: float = 20.0
    receipt_delay_mean_ms: float = 60.0
    receipt_delay_max_ms: float = 100.0
    receipt_duplicate_share: float = 0.0
    receipt_duplicate_copies: int = 1
    receipt_reorder_share: float = 0.0
    receipt_early_share: float = 0.0
    receipt_delayed_share: float = 0.0
    receipt_delayed_ms: float = 5_000.0
    receipt_lost_share: float = 0.0
    receipt_wrong_signature_share: float = 0.0
    receipt_forged_share: float = 0.0
    receipt_stale_share: float = 0.0
    # Webhooks: Telnyx waits 2 s, tries three times a URL; its back-off is unpublished.
    inbound_webhook_url: str | None = None
    webhook_answer_max_ms: float = 2_000.0
    webhook_backoff_ms: float = 500.0
    webhook_attempts_max: int = 3
    webhook_connections_max: int = 256
    # 10,000 characters of four escaped units and ten URLs of 2,000 characters stay under 256 KiB.
    body_bytes_max: int = 262_144
    # A record is one JSON line of about 600 bytes: 1.2 GB when the ring is full.
    records_max: int = 2_000_000
    # A message kept for look-up and replay takes about 1.2 kB with its texts: 600 MB when the ring is full.
    messages_max: int = 500_000


def parse_config(values: object, base: Config) -> Config:
    """Give `base` with `values` (a decoded JSON object) laid over it; raises ConfigError."""
    if not isinstance(values, dict):
        problem = "the settings must be a JSON object"
        raise ConfigError(problem)
    known = {item.name for item in fields(Config)}
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            problem = f"unknown setting {name!r}"
            raise ConfigError(problem)
        changes[name] = _parse_value(name, value, getattr(Config(), name))
    config = replace(base, **changes)
    _check_whole(config)
    return config


def check_fixed_keys(values: object) -> None:
    """Refuse a change of what only start-up may set; raises ConfigError."""
    if isinstance(values, dict) and (fixed := sorted(FIXED_KEYS & values.keys())):
        problem = f"{fixed[0]} can only be set at start"
        raise ConfigError(problem)


def _parse_value(name: str, value: object, default: object) -> object:
    match name:
        case "seed":
            return _integer(name, value, 0, 2**63 - 1)
        case "errors":
            return tuple(_refusal(name, item) for item in _items(name, value))
        case "async_failures":
            return tuple(_failure(name, item) for item in _items(name, value))
        case "caps":
            return tuple(_cap(name, item) for item in _items(name, value))
        case "late_error_statuses":
            return tuple(_integer(name, item, 500, 599) for item in _items(name, value))
        case "garbage_kinds":
            return tuple(_choice(name, item, GARBAGE_KINDS) for item in _items(name, value))
        case "idempotency":
            return _choice(name, value, get_args(Idempotency))
        case "carriers":
            return {key: _number(name, weight, 0, 1e9) for key, weight in _object(name, value).items()}
        case "campaigns":
            return {key: _text(name, campaign) for key, campaign in _object(name, value).items()}
        case "inbound_webhook_url":
            return None if value is None else _webhook_url(name, value)
    return _parse_plain(name, value, default)


def _parse_plain(name: str, value: object, default: object) -> object:
    if name.endswith("_share"):
        return _number(name, value, 0, 1)
    if isinstance(default, float):
        return _number(name, value, 0, 86_400_000)
    low = 0 if name == "retry_after_s" else 1
    return _integer(name, value, low, 100_000_000)


def _check_whole(config: Config) -> None:
    problem = ""
    for stem in ("latency", "receipt_delay"):
        low, mean, high = (getattr(config, f"{stem}_{part}_ms") for part in ("min", "mean", "max"))
        if not low <= mean <= high:
            problem = f"{stem}: min, mean and max must not fall"
    if sum(getattr(config, name) for name in ANSWER_SHARES) > 1 + 1e-9:
        problem = f"the shares {', '.join(ANSWER_SHARES)} add up to more than 1"
    for share, mix in (
        ("error_share", config.errors),
        ("async_failure_share", config.async_failures),
        ("late_error_share", config.late_error_statuses),
        ("garbage_share", config.garbage_kinds),
    ):
        if getattr(config, share) > 0 and not mix:
            problem = f"{share} is above 0 but there is nothing to choose from"
    if not sum(config.carriers.values()) > 0:
        problem = "carriers: at least one weight must be above 0"
    if problem:
        raise ConfigError(problem)


def _refusal(name: str, value: object) -> RefusalMix:
    item = _object(name, value, {"status", "code", "weight"})
    return RefusalMix(
        status=_integer(f"{name}.status", item.get("status"), 400, 599),
        code=_text(f"{name}.code", item.get("code")),
        weight=_number(f"{name}.weight", item.get("weight", 1.0), 1e-9, 1e9),
    )


def _failure(name: str, value: object) -> FailureMix:
    item = _object(name, value, {"status", "code", "weight"})
    return FailureMix(
        code=_text(f"{name}.code", item.get("code", "")),
        status=_choice(f"{name}.status", item.get("status", "delivery_failed"), get_args(FinalStatus)),
        weight=_number(f"{name}.weight", item.get("weight", 1.0), 1e-9, 1e9),
    )


def _cap(name: str, value: object) -> Cap:
    item = _object(name, value, {part.name for part in fields(Cap)})
    status = _integer(f"{name}.status", item.get("status", 0), 0, 599)
    if 0 < status < 400:  # noqa: PLR2004 - refusals begin at 400
        problem = f"{name}.status must be 0 (fails later) or 400 to 599"
        raise ConfigError(problem)
    carrier = item.get("carrier")
    time_zone = _text(f"{name}.time_zone", item.get("time_zone", "America/Los_Angeles"))
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        problem = f"{name}.time_zone: {time_zone!r} is not known"
        raise ConfigError(problem) from error
    return Cap(
        name=_text(f"{name}.name", item.get("name")),
        amount=_integer(f"{name}.amount", item.get("amount"), 0, 1_000_000_000),
        code=_text(f"{name}.code", item.get("code")),
        carrier=None if carrier is None else _text(f"{name}.carrier", carrier),
        scope=_choice(f"{name}.scope", item.get("scope", "global"), get_args(CapScope)),
        period=_choice(f"{name}.period", item.get("period", "minute"), get_args(CapPeriod)),
        unit=_choice(f"{name}.unit", item.get("unit", "parts"), get_args(CapUnit)),
        status=status,
        time_zone=time_zone,
    )


def _number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        problem = f"{name} must be a number from {low:g} to {high:g}"
        raise ConfigError(problem)
    return float(value)


def _integer(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        problem = f"{name} must be a whole number from {low} to {high}"
        raise ConfigError(problem)
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        problem = f"{name} must be a text"
        raise ConfigError(problem)
    return value


def _webhook_url(name: str, value: object) -> str:
    url = _text(name, value)
    if not is_webhook_url(url):
        problem = f"{name} must be an http or https URL of at most 2000 characters"
        raise ConfigError(problem)
    return url


def _choice(name: str, value: object, choices: tuple[Any, ...]) -> Any:
    if value not in choices:
        problem = f"{name} must be one of {', '.join(choices)}"
        raise ConfigError(problem)
    return value


def _items(name: str, value: object) -> list[object]:
    if not isinstance(value, list):
        problem = f"{name} must be a list"
        raise ConfigError(problem)
    return value


def _object(name: str, value: object, known: set[str] | None = None) -> dict[str, object]:
    if not isinstance(value, dict):
        problem = f"{name} must hold objects"
        raise ConfigError(problem)
    if known is not None and (unknown := sorted(value.keys() - known)):
        problem = f"{name}: unknown key {unknown[0]!r}"
        raise ConfigError(problem)
    return value
