"""Says who calls, from the credential in a call's metadata alone.

It reads no store: the table of keys is handed in by whoever follows the registry's version (at most 2 s behind), and
`take_rehashes` hands back what is to be written there. It never awaits; a verified key costs a few microseconds.

Invariants: memory is bounded (verified keys, addresses); an unknown prefix costs what a known one does; a key is valid
only while its row, expiry and secret say so, cached or not; nothing of a key but its prefix is ever logged.
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from engine.errors import Refused, Verdict
from engine.registry.api_keys import KeyRow
from engine.registry.keys import TOKEN_CHARACTERS_MAX, Token, keyed_hash, matches, parse
from engine.registry.records import Role
from engine.secrets import Purpose, Secrets

Metadata = Iterable[tuple[str, str | bytes]]

AUTHORIZATION: Final = "authorization"
API_KEY_HEADER: Final = "x-api-key"
BEARER: Final = "bearer "
# One verified key takes about 300 bytes here; an internal service has one, so this is far above their number.
VERIFIED_MAX: Final = 4096
# Addresses with a recent failure, about 200 bytes each; the longest unheard of is forgotten first.
ADDRESSES_MAX: Final = 10_000
# 160 random bits cannot be guessed at any pace; the lock-out is for the cost of trying, and for being seen.
FAILURES_MAX: Final = 10
FAILURE_WINDOW_US: Final = 60_000_000
LOCKED_OUT_US: Final = 30_000_000
REHASHES_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls."""

    tenant: int | None
    """Integer key of the tenant; None for ADMIN."""
    role: Role
    """What it may do."""
    prefix: str
    """Names the key in logs."""


@dataclass(slots=True)
class _Failures:
    count: int
    since_us: int
    until_us: int = 0


class Authenticator:
    """The keys that work, in memory; used by the loop's thread only."""

    def __init__(self, live: Secrets) -> None:
        """Start with no key at all: everyone is refused until `replace`."""
        self._secrets = {key.name: key.secret for key in live.of(Purpose.API_KEY)}
        self._newest = live.api_key[0]
        self._rows: dict[str, KeyRow] = {}
        self._verified: OrderedDict[bytes, tuple[KeyRow, Principal]] = OrderedDict()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._rehashes: dict[str, tuple[str, bytes]] = {}
        # The cache is keyed by a hash under a key of this process, so that it holds no credential.
        self._cache_key = secrets.token_bytes(32)
        self._nobody = secrets.token_bytes(32)
        self.version = 0

    def replace(self, version: int, rows: Sequence[KeyRow]) -> None:
        """Take over the table of registry `version`; what was verified stays only where its row did."""
        self._rows = {row.prefix: row for row in rows}
        for digest, (row, _) in list(self._verified.items()):
            if self._rows.get(row.prefix) != row:
                del self._verified[digest]
        self.version = version

    def authenticate(self, metadata: Metadata | None, peer: str | Callable[[], str], *, now_us: int) -> Principal:
        """Who presents this metadata from this gRPC peer (`ipv4:host:port`). `now_us` is wall clock.

        `peer` may be a function: of a key that was verified before nobody asks where it comes from.

        Raises Refused UNAUTHENTICATED, in the same words whatever was wrong; with a retry delay while the address is
        locked out after 10 failures within a minute. A key verified before still passes from such an address.
        """
        text = _credential(metadata)
        digest = self._digest(text)
        known = self._known(digest, now_us)
        if known is not None:
            return known
        origin = peer if isinstance(peer, str) else peer()
        address = origin.rpartition(":")[0] or origin
        self._refuse_locked_out(address, now_us)
        verified = self._verify(text, now_us)
        if verified is None:
            self._count_failure(address, now_us)
            raise _unauthenticated()
        self._failures.pop(address, None)
        self._verified[digest] = verified
        if len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)
        return verified[1]

    def known(self, metadata: Metadata, *, now_us: int) -> Principal | None:
        """Who presents this metadata, when their key was verified before; None otherwise, and nothing is counted."""
        try:
            text = _credential(metadata)
        except Refused:
            return None
        return self._known(self._digest(text), now_us)

    def _digest(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=32, key=self._cache_key).digest()

    def _known(self, digest: bytes, now_us: int) -> Principal | None:
        known = self._verified.get(digest)
        if known is None:
            return None
        row, principal = known
        if row.expire_us is None or now_us < row.expire_us:
            return principal
        del self._verified[digest]
        return None

    def take_rehashes(self) -> dict[str, tuple[str, bytes]]:
        """Hashes to store under the newest secret, for keys seen since the last call: what `api_keys.rehash` takes."""
        taken, self._rehashes = self._rehashes, {}
        return taken

    def _verify(self, text: str, now_us: int) -> tuple[KeyRow, Principal] | None:
        token = parse(text)
        if token is None:
            return None
        row = self._rows.get(token.prefix)
        secret = self._secrets.get(row.hash_key) if row else None
        # Without a row the same work is done against nobody's hash, so that time tells no prefixes.
        genuine = matches(secret or self._nobody, token, row.hash if row else self._nobody)
        if row is None or secret is None or not genuine or row.role is not token.role:
            return None
        if row.expire_us is not None and now_us >= row.expire_us:
            return None
        self._rehash(row, token)
        return row, Principal(row.tenant, row.role, row.prefix)

    def _rehash(self, row: KeyRow, token: Token) -> None:
        if row.hash_key != self._newest.name and len(self._rehashes) < REHASHES_MAX:
            self._rehashes[row.prefix] = (self._newest.name, keyed_hash(self._newest.secret, token))

    def _refuse_locked_out(self, address: str, now_us: int) -> None:
        failures = self._failures.get(address)
        # The second bound is for a clock that was set back.
        if failures is not None and 0 < failures.until_us - now_us <= LOCKED_OUT_US:
            raise _unauthenticated(retry_delay_us=failures.until_us - now_us)

    def _count_failure(self, address: str, now_us: int) -> None:
        failures = self._failures.get(address)
        # The second test is for a clock that was set back.
        if failures is None or not 0 <= now_us - failures.since_us < FAILURE_WINDOW_US:
            failures = self._failures[address] = _Failures(0, now_us)
        failures.count += 1
        if failures.count >= FAILURES_MAX:
            self._failures[address] = _Failures(0, now_us, now_us + LOCKED_OUT_US)
        self._failures.move_to_end(address)
        if len(self._failures) > ADDRESSES_MAX:
            self._failures.popitem(last=False)


def require(principal: Principal, role: Role) -> None:
    """Raise Refused PERMISSION_DENIED unless the caller has this role."""
    if principal.role is not role:
        raise Refused(Verdict.PERMISSION_DENIED, f"this needs a key of role {role.name}")


def _credential(metadata: Metadata | None) -> str:
    """The one credential in the metadata, shortened where it cannot be one. Raises Refused when there is none."""
    found = ""
    for name, value in metadata or ():
        if not isinstance(value, str):
            continue
        if name == AUTHORIZATION and value[: len(BEARER)].lower() == BEARER:
            candidate = value[len(BEARER) :].strip()
        elif name == API_KEY_HEADER:
            candidate = value.strip()
        else:
            continue
        if found and candidate != found:
            # Two of them: whoever stands in front may have checked the other one.
            raise _unauthenticated()
        found = candidate
    if not found:
        raise _unauthenticated()
    return found[: TOKEN_CHARACTERS_MAX + 1]


def _unauthenticated(*, retry_delay_us: int = 0) -> Refused:
    detail = "no valid API key: send authorization: Bearer KEY"
    if retry_delay_us:
        detail = "too many calls without a valid API key from this address: wait"
    return Refused(Verdict.UNAUTHENTICATED, detail, retry_delay_us=retry_delay_us)
