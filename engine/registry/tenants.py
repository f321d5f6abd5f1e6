"""Tenants and their brands in the store: make, find, list, suspend.

Every function runs in the caller's transaction and checks no rights. Every write raises the registry's version.
Refusals are `Refused`: INVALID_FIELD, ALREADY_EXISTS, NOT_FOUND.
"""

import sqlalchemy as sa

from engine.errors import Refused, Verdict
from engine.registry.names import DISPLAY_NAME_CHARACTERS_MAX, EIN_FORM, for_people, new_id, not_found, refuse
from engine.registry.records import Brand, Tenant, TenantState
from engine.registry.tables import BRANDS, TENANTS
from engine.registry.version import raise_version


def already_exists(field: str, what: str) -> Refused:
    """An ALREADY_EXISTS about this field, to be raised."""
    return Refused(Verdict.ALREADY_EXISTS, f"{what} exists already", field=field)


def create_tenant(control: sa.Connection, tenant_id: str, display_name: str, *, now_us: int) -> Tenant:
    """Make an active tenant."""
    new_id(tenant_id, "tenant_id")
    for_people(display_name, DISPLAY_NAME_CHARACTERS_MAX, "display_name")
    if control.execute(sa.select(TENANTS.c.key).where(TENANTS.c.id == tenant_id)).first():
        raise already_exists("tenant_id", "a tenant of this id")
    values = {"id": tenant_id, "display_name": display_name, "state": TenantState.ACTIVE, "create_us": now_us}
    control.execute(sa.insert(TENANTS).values(values))
    raise_version(control)
    return find_tenant(control, tenant_id)


def find_tenant(control: sa.Connection, tenant_id: str) -> Tenant:
    """The tenant of this id."""
    return _one_tenant(control, TENANTS.c.id == tenant_id)


def find_tenant_of_key(control: sa.Connection, key: int) -> Tenant:
    """The tenant of this integer key."""
    return _one_tenant(control, TENANTS.c.key == key)


def list_tenants(control: sa.Connection, *, after: str, rows_max: int) -> list[Tenant]:
    """Tenants by id, from the one after `after` on."""
    query = sa.select(TENANTS).where(TENANTS.c.id > after).order_by(TENANTS.c.id).limit(rows_max)
    return [_tenant(row) for row in control.execute(query)]


def set_tenant_state(control: sa.Connection, tenant: Tenant, state: TenantState) -> Tenant:
    """Suspend or resume."""
    control.execute(sa.update(TENANTS).where(TENANTS.c.key == tenant.key).values(state=state))
    raise_version(control)
    return find_tenant_of_key(control, tenant.key)


def create_brand(
    control: sa.Connection, tenant: Tenant, brand_id: str, *, display_name: str, ein: str, now_us: int
) -> Brand:
    """Make a brand of the tenant. The EIN is checked by form only."""
    new_id(brand_id, "brand_id")
    for_people(display_name, DISPLAY_NAME_CHARACTERS_MAX, "display_name")
    if not EIN_FORM.fullmatch(ein):
        raise refuse("ein", "write the employer identification number as NN-NNNNNNN")
    same = sa.select(BRANDS.c.key).where(BRANDS.c.tenant == tenant.key, BRANDS.c.id == brand_id)
    if control.execute(same).first():
        raise already_exists("brand_id", "a brand of this id")
    values = {"tenant": tenant.key, "id": brand_id, "display_name": display_name, "ein": ein, "create_us": now_us}
    control.execute(sa.insert(BRANDS).values(values))
    raise_version(control)
    return find_brand(control, tenant, brand_id)


def find_brand(control: sa.Connection, tenant: Tenant, brand_id: str) -> Brand:
    """The tenant's brand of this id."""
    row = control.execute(sa.select(BRANDS).where(BRANDS.c.tenant == tenant.key, BRANDS.c.id == brand_id)).first()
    if row is None:
        raise not_found()
    return _brand(row)


def list_brands(control: sa.Connection, tenant: Tenant, *, after: str, rows_max: int) -> list[Brand]:
    """The tenant's brands by id, from the one after `after` on."""
    query = (
        sa.select(BRANDS)
        .where(BRANDS.c.tenant == tenant.key, BRANDS.c.id > after)
        .order_by(BRANDS.c.id)
        .limit(rows_max)
    )
    return [_brand(row) for row in control.execute(query)]


def _one_tenant(control: sa.Connection, condition: sa.ColumnElement[bool]) -> Tenant:
    row = control.execute(sa.select(TENANTS).where(condition)).first()
    if row is None:
        raise not_found()
    return _tenant(row)


def _tenant(row: sa.Row[tuple[object, ...]]) -> Tenant:
    return Tenant(row.key, row.id, row.display_name, TenantState(row.state), row.create_us)


def _brand(row: sa.Row[tuple[object, ...]]) -> Brand:
    return Brand(row.key, row.id, row.display_name, row.ein, row.create_us)
