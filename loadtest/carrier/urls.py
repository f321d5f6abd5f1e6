"""Checks webhook URLs and takes them apart into where to connect and what to ask for.

It resolves no names. Only ASCII without blanks or controls passes, so that a URL cannot break out of a request line.
"""

import re
from typing import Final, NamedTuple

URL_CHARACTERS_MAX: Final = 2_000

_WEBHOOK_URL: Final = re.compile(
    r"(https?)://(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?([/?][!-~]*)?"
)


class Origin(NamedTuple):
    """Where to connect: the key of a connection pool."""

    tls: bool
    host: str
    port: int


def is_webhook_url(url: str) -> bool:
    """Say whether `url` is an absolute http or https URL of at most 2,000 characters."""
    match = _WEBHOOK_URL.fullmatch(url)
    return match is not None and len(url) <= URL_CHARACTERS_MAX and _is_port(match[4])


def split_webhook_url(url: str) -> tuple[Origin, bytes, bytes] | None:
    """Give (origin, request target, Host header), or None when it is no such URL. The fragment is not sent."""
    match = _WEBHOOK_URL.fullmatch(url)
    if match is None:
        return None
    scheme, bracketed, name, port_text, target = match.groups()
    tls = scheme == "https"
    if not _is_port(port_text):
        return None
    port = int(port_text) if port_text else (443 if tls else 80)
    target = (target or "/").partition("#")[0]
    if target.startswith("?"):
        target = "/" + target
    authority = (f"[{bracketed}]" if bracketed else name) + (f":{port_text}" if port_text else "")
    return Origin(tls, bracketed or name, port), target.encode(), authority.encode()


def _is_port(text: str | None) -> bool:
    return text is None or 0 < int(text) < 65_536  # noqa: PLR2004 - the port range of TCP
