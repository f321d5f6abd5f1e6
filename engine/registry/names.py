"""Reads and checks what callers write: resource names, ids, numbers, texts for people.

It looks nothing up. A refusal names the field and the form that is wanted, never what was written: field violations are
logged by clients.
"""

import re
from typing import Final

from engine.errors import Refused, Verdict

ID_FORM: Final = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)
EIN_FORM: Final = re.compile(r"[0-9]{2}-[0-9]{7}", re.ASCII)
PREFIX_FORM: Final = re.compile(r"[a-z2-7]{12}", re.ASCII)
QUOTA_FORM: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
TCR_CAMPAIGN_FORM: Final = re.compile(r"C[A-Z0-9]{1,31}", re.ASCII)
# Source: the numbering plan's rules. Area codes: N11 services, N9X held for expansion, 37X, 96X and 822 set aside, 710,
# 900, 5XX and other non-geographic ones. Exchanges: N11.
NUMBER_FORM: Final = re.compile(
    r"\+1"
    r"(?![2-9]11|[2-9]9|37|96|822|710|900|500|52[1-9]|53[23]|544|566|577|588|600|622|633|700)[2-9][0-9]{2}"
    r"(?![2-9]11)[2-9][0-9]{6}",
    re.ASCII,
)
DISPLAY_NAME_CHARACTERS_MAX: Final = 200
USE_CASE_CHARACTERS_MAX: Final = 64
PROFILE_CHARACTERS_MAX: Final = 64


def refuse(field: str, detail: str) -> Refused:
    """An INVALID_FIELD about this field, to be raised."""
    return Refused(Verdict.INVALID_FIELD, detail, field=field)


def not_found() -> Refused:
    """The one answer for what does not exist and for what belongs to another tenant, to be raised."""
    return Refused(Verdict.NOT_FOUND, "no such resource for this key")


def new_id(text: str, field: str) -> str:
    """An id for a new resource. Raises Refused."""
    if not ID_FORM.fullmatch(text):
        raise refuse(field, "use lower-case letters, digits and dashes, 1 to 63")
    return text


def id_of(name: str, collection: str, field: str) -> str:
    """The id in `collection/id`. Raises Refused when the form is wrong."""
    return _part(name, collection, ID_FORM, field, f"{collection}/{{id}}")


def number_of(name: str, field: str) -> int:
    """The digits in `numbers/+1…`. Raises Refused."""
    return int(_part(name, "numbers", NUMBER_FORM, field, "numbers/{E.164}")[1:])


def digits_of(number: str, field: str) -> int:
    """The digits of a North American number in E.164 form. Raises Refused."""
    if not NUMBER_FORM.fullmatch(number):
        raise refuse(field, "give a North American number in E.164 form, +1 and ten digits")
    return int(number[1:])


def prefix_of(name: str, field: str) -> str:
    """The prefix in `apiKeys/{prefix}`. Raises Refused."""
    return _part(name, "apiKeys", PREFIX_FORM, field, "apiKeys/{prefix}")


def quota_of(name: str, field: str) -> int:
    """The key in `quotas/{quota}`. Raises Refused."""
    return int(_part(name, "quotas", QUOTA_FORM, field, "quotas/{quota}"))


def for_people(text: str, characters_max: int, field: str) -> str:
    """Text without control characters, at most so long; may be empty. Raises Refused."""
    if len(text) > characters_max or not text.isprintable():
        raise refuse(field, f"use at most {characters_max} printable characters")
    return text


def _part(name: str, collection: str, form: re.Pattern[str], field: str, wanted: str) -> str:
    head, _, part = name.partition("/")
    if head != collection or not form.fullmatch(part):
        raise refuse(field, f"write it as {wanted}")
    return part
