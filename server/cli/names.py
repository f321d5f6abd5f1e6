"""Names and enumerations as people type them: `otp` for `campaigns/otp`, `active` for `CAMPAIGN_STATE_ACTIVE`.

It checks no more than the form; the engine knows what exists.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

DURATION_FORM: Final = re.compile(r"(\d{1,9})(ms|s|m|min|h|d)?")
UNIT_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def resource(collection: str, text: str) -> str:
    """The resource's full name; an id alone gets its collection in front."""
    return text if "/" in text or not text else f"{collection}/{text}"


def short(name: str) -> str:
    """The id in a resource name."""
    return name.rpartition("/")[2]


def enum_number(kind: EnumDescriptor, text: str) -> int:
    """The number of a value, by its full name or its own part, in any case and with dashes.

    Raises ValueError with the choices.
    """
    prefix = enum_prefix(kind)
    wanted = text.strip().upper().replace("-", "_")
    for name, value in kind.values_by_name.items():
        if value.number and wanted in {name, name.removeprefix(prefix)}:
            return value.number
    message = f"{text!r} is none of {', '.join(enum_choices(kind))}"
    raise ValueError(message)


def enum_choices(kind: EnumDescriptor) -> list[str]:
    """What may be typed."""
    prefix = enum_prefix(kind)
    return [
        name.removeprefix(prefix).lower().replace("_", "-")
        for name, value in kind.values_by_name.items()
        if value.number
    ]


def enum_name(kind: EnumDescriptor, number: int) -> str:
    """The value's own part of its name; empty for none, the number for one newer than this client."""
    if not number:
        return ""
    known = kind.values_by_number.get(number)
    return known.name.removeprefix(enum_prefix(kind)) if known is not None else str(number)


def enum_prefix(kind: EnumDescriptor) -> str:
    """The part that all names of the enumeration share, such as `CAMPAIGN_STATE_`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.name).upper() + "_"


def duration_ms(text: str) -> int:
    """Milliseconds of `90s`, `15m`, `24h`, `3d`, `500ms` or plain seconds. Raises ValueError."""
    match = DURATION_FORM.fullmatch(text.strip().lower())
    if match is None:
        message = f"{text!r} is no duration: write 90s, 15m, 24h or 3d"
        raise ValueError(message)
    return int(match[1]) * UNIT_MS[match[2] or "s"]


def duration(text: str) -> Duration:
    """The duration as a message. Raises ValueError."""
    made = Duration()
    made.FromTimedelta(timedelta(milliseconds=duration_ms(text)))
    return made


def timestamp(text: str) -> Timestamp:
    """The time of an RFC 3339 text with its zone. Raises ValueError."""
    message = f"{text!r} is no time with a zone: write 2026-03-01T09:00:00-05:00"
    try:
        parsed = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(message) from None
    if parsed.tzinfo is None:
        raise ValueError(message)
    made = Timestamp()
    made.FromDatetime(parsed.astimezone(UTC))
    return made


def when(time: Timestamp) -> str:
    """A time for people, UTC; empty when it is not set."""
    if not time.seconds and not time.nanos:
        return ""
    return time.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
