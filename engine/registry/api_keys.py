"""API keys in the store: make, list, revoke, and the table that an authenticator keeps in memory.

Every function runs in the caller's transaction and checks no rights. No row holds a key, only its keyed hash. Refusals
are `Refused`: INVALID_FIELD, NOT_FOUND.
"""

from dataclasses import dataclass, field

import sqlalchemy as sa

from engine.registry.keys import Token, keyed_hash, mint
from engine.registry.names import DISPLAY_NAME_CHARACTERS_MAX, for_people, not_found, refuse
from engine.registry.records import ApiKey, Role, Tenant
from engine.registry.tables import API_KEYS, TENANTS
from engine.registry.version import raise_version
from engine.secrets import Secrets

_ROWS = sa.select(API_KEYS, TENANTS.c.id.label("tenant_id")).join_from(
    API_KEYS, TENANTS, API_KEYS.c.tenant == TENANTS.c.key, isouter=True
)


@dataclass(frozen=True, slots=True)
class KeyRow:
    """What it takes to verify a key."""

    prefix: str
    tenant: int | None
    """Integer key of the tenant; None for ADMIN."""
    role: Role
    hash: bytes = field(repr=False)
    """32 bytes."""
    hash_key: str
    """Name of the secret that the hash was made with."""
    expire_us: int | None
    """Not valid from then on."""


def create_api_key(
    control: sa.Connection,
    secrets: Secrets,
    *,
    role: Role,
    tenant: Tenant | None,
    display_name: str,
    expire_us: int | None,
    now_us: int,
) -> tuple[ApiKey, Token]:
    """Make a key; the token is its only copy. A TENANT key has a tenant, an ADMIN key has none."""
    if (role is Role.TENANT) != (tenant is not None):
        raise refuse("tenant", "a TENANT key needs a tenant, an ADMIN key has none")
    for_people(display_name, DISPLAY_NAME_CHARACTERS_MAX, "display_name")
    if expire_us is not None and expire_us <= now_us:
        raise refuse("expire_time", "give a time in the future, or none")
    token = mint(role)
    hash_key = secrets.api_key[0]
    values = {
        "prefix": token.prefix,
        "tenant": tenant.key if tenant else None,
        "role": role,
        "display_name": display_name,
        "hash": keyed_hash(hash_key.secret, token),
        "hash_key": hash_key.name,
        "create_us": now_us,
        "expire_us": expire_us,
        "revoke_us": None,
    }
    control.execute(sa.insert(API_KEYS).values(values))
    raise_version(control)
    return find_api_key(control, token.prefix), token


def find_api_key(control: sa.Connection, prefix: str) -> ApiKey:
    """The key of this prefix, of any tenant."""
    row = control.execute(_ROWS.where(API_KEYS.c.prefix == prefix)).first()
    if row is None:
        raise not_found()
    return _api_key(row)


def list_api_keys(control: sa.Connection, tenant: Tenant | None, *, after: str, rows_max: int) -> list[ApiKey]:
    """Keys of the tenant, or the ADMIN keys, by prefix, from the one after `after` on; revoked and expired ones too."""
    owned = API_KEYS.c.tenant.is_(None) if tenant is None else API_KEYS.c.tenant == tenant.key
    query = _ROWS.where(owned, API_KEYS.c.prefix > after).order_by(API_KEYS.c.prefix).limit(rows_max)
    return [_api_key(row) for row in control.execute(query)]


def revoke_api_key(control: sa.Connection, prefix: str, *, now_us: int) -> ApiKey:
    """Revoke a key, of any tenant; once revoked it stays as it was."""
    if find_api_key(control, prefix).revoke_us is None:
        control.execute(sa.update(API_KEYS).where(API_KEYS.c.prefix == prefix).values(revoke_us=now_us))
        raise_version(control)
    return find_api_key(control, prefix)


def has_live_admin(control: sa.Connection, *, now_us: int) -> bool:
    """Whether an ADMIN key works now; `bootstrap` makes one only when none does."""
    query = sa.select(API_KEYS.c.prefix).where(API_KEYS.c.role == Role.ADMIN, *_live(now_us)).limit(1)
    return control.execute(query).first() is not None


def has_any_key(control: sa.Connection) -> bool:
    """Whether any row depends on the secret file, which then must not be made anew."""
    return control.execute(sa.select(API_KEYS.c.prefix).limit(1)).first() is not None


def load_keys(control: sa.Connection, *, now_us: int) -> list[KeyRow]:
    """All keys that work now."""
    rows = control.execute(sa.select(API_KEYS).where(*_live(now_us)))
    return [KeyRow(row.prefix, row.tenant, Role(row.role), row.hash, row.hash_key, row.expire_us) for row in rows]


def hash_keys_in_use(control: sa.Connection, *, now_us: int) -> frozenset[str]:
    """Names of the secrets that live keys depend on: `rotate` must not drop them."""
    return frozenset(control.execute(sa.select(API_KEYS.c.hash_key).where(*_live(now_us)).distinct()).scalars())


def rehash(control: sa.Connection, hashes: dict[str, tuple[str, bytes]]) -> None:
    """Store hashes under a newer secret: prefix → (name of the secret, 32 bytes). Unknown prefixes change nothing.

    A key's text is known only while it is presented, so this is how keys move to a new secret.
    """
    for prefix, (hash_key, digest) in hashes.items():
        control.execute(sa.update(API_KEYS).where(API_KEYS.c.prefix == prefix).values(hash=digest, hash_key=hash_key))
    if hashes:
        raise_version(control)


def _live(now_us: int) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        API_KEYS.c.revoke_us.is_(None),
        sa.or_(API_KEYS.c.expire_us.is_(None), API_KEYS.c.expire_us > now_us),
    )


def _api_key(row: sa.Row[tuple[object, ...]]) -> ApiKey:
    return ApiKey(
        row.prefix, row.tenant_id or "", Role(row.role), row.display_name, row.create_us, row.expire_us, row.revoke_us
    )
