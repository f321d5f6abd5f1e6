"""RegistryService over real gRPC and a real store: every method, every refusal, nothing of another tenant."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, cast

import grpc
import pytest
import sqlalchemy as sa
from google.protobuf import timestamp_pb2
from google.rpc import error_details_pb2, status_pb2

from engine.registry import api_keys, campaigns, quotas, tenants
from engine.registry.records import OnUnknown
from engine.registry.snapshot import RegistryRows, ensure_provider, snapshot
from engine.registry.version import read_version
from longwave.v1 import messaging_pb2
from longwave.v1 import registry_pb2 as pb
from server.registry_messages import quota_wish

NOW_US = 1_700_000_000_000_000
NUMBER = "+12025550123"
METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["RegistryService"].methods]
READING = [name for name in METHODS if name.startswith(("Get", "List"))]
WRITING = [name for name in METHODS if name not in READING]


class Served(Protocol):
    admin: str
    changes: list[int]
    stub: Any
    store: Any
    call: Callable[[str, str, object], Awaitable[Any]]
    as_admin: Callable[[str, object], Awaitable[Any]]
    tenant_key: Callable[[str], Awaitable[str]]


async def refusal(call: Awaitable[object]) -> tuple[grpc.StatusCode, str, str, str]:
    """Status code, verdict, field and message of a call that must be refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    error = refused.value
    trailers = dict(cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata()))
    status = status_pb2.Status.FromString(cast("bytes", trailers["grpc-status-details-bin"]))
    info, violations = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert [detail.Unpack(info) for detail in status.details].count(True) == 1
    fields = [v.field for detail in status.details if detail.Unpack(violations) for v in violations.field_violations]
    return error.code(), info.reason, "".join(fields), error.details() or ""


def request_of(method: str, tenant: str, suffix: str = "") -> Any:
    """A request of the method about `tenants/{tenant}` and its resources, each of the one of its kind."""
    fields: dict[str, dict[str, Any]] = {
        "GetTenant": {"name": f"tenants/{tenant}{suffix}"},
        "UpdateTenant": {"name": f"tenants/{tenant}{suffix}", "state": pb.TENANT_STATE_ACTIVE},
        "GetBrand": {"name": f"brands/{tenant}-brand{suffix}"},
        "GetCampaign": {"name": f"campaigns/{tenant}-campaign{suffix}"},
        "UpdateCampaign": {"name": f"campaigns/{tenant}-campaign{suffix}"},
        "GetNumber": {"name": f"numbers/{number_of(tenant, suffix)}"},
        "DeleteNumber": {"name": f"numbers/{number_of(tenant, suffix)}"},
        "CreateBrand": {"brand_id": "new", "ein": "12-3456789"},
        "CreateCampaign": {"brand": f"brands/{tenant}-brand{suffix}", "campaign_id": "new"},
        "CreateNumber": {"campaign": f"campaigns/{tenant}-campaign{suffix}", "number": "+12025550199"},
        "SetQuota": {
            "quota": pb.Quota(
                scope=pb.QUOTA_SCOPE_CAMPAIGN,
                subject=f"campaigns/{tenant}-campaign{suffix}",
                unit=pb.QUOTA_UNIT_SEGMENTS,
                amount=75,
                window_ms=60_000,
            )
        },
        "CreateApiKey": {"role": pb.ROLE_TENANT, "tenant": f"tenants/{tenant}{suffix}"},
        "CreateTenant": {"tenant_id": "new"},
        "RevokeApiKey": {"name": "apiKeys/aaaaaaaaaaaa"},
        "DeleteQuota": {"name": "quotas/999999"},
    }
    return getattr(pb, f"{method}Request")(**fields.get(method, {}))


def number_of(tenant: str, suffix: str = "") -> str:
    return {"acme": "+12025550101", "bolt": "+12025550102"}[tenant] if not suffix else "+12025550177"


def with_tenant(request: Any, tenant: str) -> Any:
    if "tenant" in request.DESCRIPTOR.fields_by_name:
        request.tenant = f"tenants/{tenant}"
    return request


@pytest.fixture
def furnished(server: Served) -> Served:
    """Tenants acme and bolt, each with a brand, a campaign, a number and a quota."""

    def furnish(control: sa.Connection) -> None:
        for tenant_id in ("acme", "bolt"):
            tenant = tenants.create_tenant(control, tenant_id, tenant_id.title(), now_us=NOW_US)
            brand = tenants.create_brand(
                control, tenant, f"{tenant_id}-brand", display_name="Firm", ein="12-3456789", now_us=NOW_US
            )
            campaign = campaigns.create_campaign(
                control,
                tenant,
                brand,
                f"{tenant_id}-campaign",
                tcr_campaign="CABC123",
                use_case="2FA",
                on_unknown=OnUnknown.UNRESOLVED,
                messaging_profile="profile",
                now_us=NOW_US,
            )
            campaigns.create_number(control, tenant, campaign, int(number_of(tenant_id)[1:]), now_us=NOW_US)
            quotas.set_quota(control, tenant, quota_wish(request_of("SetQuota", tenant_id).quota))

    server.store.run(furnish)
    return server


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_needs_a_key(server: Served, method: str) -> None:
    code, verdict, _, _ = await refusal(getattr(server.stub, method)(request_of(method, "acme"), timeout=20))
    assert (code, verdict) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


@pytest.mark.parametrize("method", WRITING)
async def test_a_tenant_key_writes_nothing_not_even_its_own(furnished: Served, method: str) -> None:
    key = await furnished.tenant_key("bolt")
    before = furnished.store.run(snapshot)
    answers = [
        await refusal(furnished.call(key, method, with_tenant(request_of(method, tenant, suffix), tenant)))
        for tenant, suffix in (("bolt", ""), ("acme", ""), ("acme", "-missing"))
    ]
    assert {answer[:2] for answer in answers} == {(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")}
    assert len(set(answers)) == 1
    assert furnished.store.run(snapshot) == before


@pytest.mark.parametrize("method", READING)
@pytest.mark.parametrize("named", ["own", "other", "none"])
async def test_another_tenants_id_answers_as_a_missing_one(furnished: Served, method: str, named: str) -> None:
    """The matrix: every reading method x another tenant's ids x whichever tenant the request names."""
    foreign_key = await furnished.tenant_key("acme")
    key = await furnished.tenant_key("bolt")

    async def answer(suffix: str) -> object:
        request = request_of(method, "acme", suffix)
        if named != "none":
            with_tenant(request, "bolt" if named == "own" else f"acme{suffix}")
        if method == "ListTenants" or (method.startswith("List") and named != "other"):
            response = await furnished.call(key, method, request)
        else:
            refused = await refusal(furnished.call(key, method, request))
            assert refused[:2] == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
            return refused
        assert "acme" not in str(response)
        assert number_of("acme") not in str(response)
        assert foreign_key.split("_")[2] not in str(response)
        return response.SerializeToString()

    assert await answer("") == await answer("-missing")


@pytest.mark.parametrize(
    "method",
    [
        "GetBrand",
        "GetCampaign",
        "UpdateCampaign",
        "GetNumber",
        "DeleteNumber",
        "CreateCampaign",
        "CreateNumber",
        "SetQuota",
    ],
)
async def test_an_admin_key_does_not_mix_tenants_either(furnished: Served, method: str) -> None:
    before = furnished.store.run(snapshot)
    answers = [
        await refusal(furnished.as_admin(method, with_tenant(request_of(method, "acme", suffix), "bolt")))
        for suffix in ("", "-missing")
    ]
    assert answers[0][:2] == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert answers[0] == answers[1]
    assert furnished.store.run(snapshot) == before


async def test_a_tenant_key_reads_its_own(furnished: Served) -> None:
    key = await furnished.tenant_key("bolt")
    for method in READING:
        request = request_of(method, "bolt")
        own = await furnished.call(key, method, request)
        assert "bolt" in str(own) or "+12025550102" in str(own)
        if method != "ListTenants":
            assert own == await furnished.call(furnished.admin, method, with_tenant(request, "bolt"))


async def test_a_campaign_is_read_as_it_was_made(furnished: Served) -> None:
    response = await furnished.as_admin("GetCampaign", with_tenant(request_of("GetCampaign", "acme"), "acme"))
    assert response.campaign == pb.Campaign(
        name="campaigns/acme-campaign",
        brand="brands/acme-brand",
        tcr_campaign="CABC123",
        use_case="2FA",
        state=pb.CAMPAIGN_STATE_ACTIVE,
        on_unknown=pb.ON_UNKNOWN_UNRESOLVED,
        messaging_profile="profile",
        create_time=timestamp_pb2.Timestamp(seconds=NOW_US // 1_000_000),
        tenant="tenants/acme",
    )
    brand = await furnished.as_admin("GetBrand", with_tenant(request_of("GetBrand", "acme"), "acme"))
    assert (brand.brand.ein, brand.brand.display_name, brand.brand.tenant) == ("12-3456789", "Firm", "tenants/acme")
    number = await furnished.as_admin("GetNumber", with_tenant(request_of("GetNumber", "acme"), "acme"))
    assert (number.number.campaign, number.number.tenant) == ("campaigns/acme-campaign", "tenants/acme")


async def test_a_tenant_is_suspended_and_resumed(furnished: Served) -> None:
    for state, active in ((pb.TENANT_STATE_SUSPENDED, False), (pb.TENANT_STATE_ACTIVE, True)):
        response = await furnished.as_admin("UpdateTenant", pb.UpdateTenantRequest(name="tenants/acme", state=state))
        assert response.tenant.state == state
        assert furnished.store.run(snapshot).tenants[0] == (1, active)
    answer = await refusal(furnished.as_admin("UpdateTenant", pb.UpdateTenantRequest(name="tenants/acme")))
    assert answer[1:3] == ("INVALID_FIELD", "state")


async def test_a_campaign_is_changed_where_fields_are_set(furnished: Served) -> None:
    request = with_tenant(request_of("UpdateCampaign", "acme"), "acme")
    request.state = pb.CAMPAIGN_STATE_PAUSED
    response = await furnished.as_admin("UpdateCampaign", request)
    assert response.campaign.state == pb.CAMPAIGN_STATE_PAUSED
    assert response.campaign.on_unknown == pb.ON_UNKNOWN_UNRESOLVED
    request = with_tenant(request_of("UpdateCampaign", "acme"), "acme")
    request.on_unknown = pb.ON_UNKNOWN_RESEND
    response = await furnished.as_admin("UpdateCampaign", request)
    assert response.campaign.state == pb.CAMPAIGN_STATE_PAUSED
    assert response.campaign.on_unknown == pb.ON_UNKNOWN_RESEND
    version = furnished.store.run(read_version)
    await furnished.as_admin("UpdateCampaign", with_tenant(request_of("UpdateCampaign", "acme"), "acme"))
    assert furnished.store.run(read_version) == version


async def test_a_number_belongs_to_one_campaign_and_the_refusal_does_not_say_whose(furnished: Served) -> None:
    def claim(tenant: str) -> Awaitable[object]:
        request = with_tenant(request_of("CreateNumber", tenant), tenant)
        request.number = number_of("acme")
        return furnished.as_admin("CreateNumber", request)

    own, foreign = await refusal(claim("acme")), await refusal(claim("bolt"))
    assert own[:3] == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS", "number")
    assert own == foreign
    await furnished.as_admin("DeleteNumber", with_tenant(request_of("DeleteNumber", "acme"), "acme"))
    await claim("bolt")


async def test_a_deleted_number_takes_its_quotas_along(furnished: Served) -> None:
    quota = pb.Quota(
        scope=pb.QUOTA_SCOPE_NUMBER, subject=f"numbers/{number_of('acme')}", unit=pb.QUOTA_UNIT_MESSAGES, amount=1,
        window_ms=1000,
    )  # fmt: skip
    await furnished.as_admin("SetQuota", pb.SetQuotaRequest(tenant="tenants/acme", quota=quota))
    before: RegistryRows = furnished.store.run(snapshot)
    await furnished.as_admin("DeleteNumber", with_tenant(request_of("DeleteNumber", "acme"), "acme"))
    after: RegistryRows = furnished.store.run(snapshot)
    assert len(after.quotas) == len(before.quotas) - 1
    assert after.campaigns[0][-1] == []


INVALID = [
    ("CreateTenant", pb.CreateTenantRequest(tenant_id=""), "tenant_id"),
    ("CreateTenant", pb.CreateTenantRequest(tenant_id="Upper"), "tenant_id"),
    ("CreateTenant", pb.CreateTenantRequest(tenant_id="a" * 64), "tenant_id"),
    ("CreateTenant", pb.CreateTenantRequest(tenant_id="a\n"), "tenant_id"),
    ("CreateTenant", pb.CreateTenantRequest(tenant_id="a", display_name="x" * 201), "display_name"),
    ("CreateTenant", pb.CreateTenantRequest(tenant_id="a", display_name="x\0"), "display_name"),
    ("GetTenant", pb.GetTenantRequest(name="acme"), "name"),
    ("GetTenant", pb.GetTenantRequest(name=""), "name"),
    ("GetTenant", pb.GetTenantRequest(name="brands/acme"), "name"),
    ("CreateBrand", pb.CreateBrandRequest(brand_id="a", ein="12-3456789"), "tenant"),
    ("CreateBrand", pb.CreateBrandRequest(tenant="tenants/acme", brand_id="a", ein="123456789"), "ein"),
    ("CreateBrand", pb.CreateBrandRequest(tenant="tenants/acme", brand_id="a", ein="12-345678٣"), "ein"),
    ("CreateBrand", pb.CreateBrandRequest(tenant="tenants/acme", brand_id="a", ein=""), "ein"),
    ("ListBrands", pb.ListBrandsRequest(), "tenant"),
    ("ListBrands", pb.ListBrandsRequest(tenant="tenants/acme", page_size=-1), "page_size"),
    (
        "CreateCampaign",
        pb.CreateCampaignRequest(tenant="tenants/acme", brand="brands/acme-brand", campaign_id="a", tcr_campaign="c1"),
        "tcr_campaign",
    ),
    (
        "CreateCampaign",
        pb.CreateCampaignRequest(
            tenant="tenants/acme",
            brand="brands/acme-brand",
            campaign_id="a",
            on_unknown=9,  # type: ignore[arg-type]
        ),
        "on_unknown",
    ),
    ("CreateApiKey", pb.CreateApiKeyRequest(), "role"),
    ("CreateApiKey", pb.CreateApiKeyRequest(role=pb.ROLE_TENANT), "tenant"),
    ("CreateApiKey", pb.CreateApiKeyRequest(role=pb.ROLE_ADMIN, tenant="tenants/acme"), "tenant"),
    (
        "CreateApiKey",
        pb.CreateApiKeyRequest(role=pb.ROLE_ADMIN, expire_time=timestamp_pb2.Timestamp(seconds=1)),
        "expire_time",
    ),
    (
        "CreateApiKey",
        pb.CreateApiKeyRequest(role=pb.ROLE_ADMIN, expire_time=timestamp_pb2.Timestamp(seconds=2**62)),
        "expire_time",
    ),
    ("RevokeApiKey", pb.RevokeApiKeyRequest(name="apiKeys/short"), "name"),
    ("DeleteQuota", pb.DeleteQuotaRequest(name="quotas/0"), "name"),
    ("DeleteQuota", pb.DeleteQuotaRequest(name="quotas/" + "9" * 30), "name"),
]


@pytest.mark.parametrize(("method", "request_", "field"), INVALID)
async def test_an_invalid_field_is_named(furnished: Served, method: str, request_: object, field: str) -> None:
    answer = await refusal(furnished.as_admin(method, request_))
    assert answer[:3] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field)


@pytest.mark.parametrize(
    "number",
    [
        "",
        "2025550123",
        "12025550123",
        "+1202555012",
        "+120255501234",
        "+442025550123",
        "+11025550123",
        "+19115550123",
        "+12921234567",
        "+13705550123",
        "+19005550123",
        "+17105550123",
        "+15005550123",
        "+12021550123",
        "+12029110123",
        "+1202555o123",
        "+1202555012٣",
        "+12025550123\n",
        "+1 202 555 0123",
    ],
)
async def test_a_number_is_strictly_north_american(furnished: Served, number: str) -> None:
    request = with_tenant(request_of("CreateNumber", "acme"), "acme")
    request.number = number
    answer = await refusal(furnished.as_admin("CreateNumber", request))
    assert answer[1:3] == ("INVALID_FIELD", "number")
    assert not number or number not in answer[3]


@pytest.mark.parametrize("method", ["CreateTenant", "CreateBrand", "CreateCampaign"])
async def test_an_id_is_given_once_in_its_tenant(furnished: Served, method: str) -> None:
    await furnished.as_admin(method, with_tenant(request_of(method, "acme"), "acme"))
    answer = await refusal(furnished.as_admin(method, with_tenant(request_of(method, "acme"), "acme")))
    assert answer[:2] == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    if method != "CreateTenant":
        await furnished.as_admin(method, with_tenant(request_of(method, "bolt"), "bolt"))


async def test_every_write_raises_the_version_and_is_in_force_when_answered(furnished: Served) -> None:
    secret = await furnished.tenant_key("acme")
    for method in WRITING:
        request = with_tenant(request_of(method, "acme"), "acme")
        if method == "RevokeApiKey":
            request.name = f"apiKeys/{secret.split('_')[2]}"
        elif method == "DeleteQuota":
            request.name = "quotas/1"
        elif method == "UpdateCampaign":
            request.state = pb.CAMPAIGN_STATE_PAUSED
        before, told = furnished.store.run(read_version), len(furnished.changes)
        await furnished.as_admin(method, request)
        assert furnished.store.run(read_version) == before + 1, method
        assert furnished.changes[told:] == [before + 1], method
    told = len(furnished.changes)
    for method in READING:
        await furnished.as_admin(method, with_tenant(request_of(method, "bolt"), "bolt"))
    assert len(furnished.changes) == told


async def test_a_key_works_at_once_and_stops_when_revoked(furnished: Served) -> None:
    expires = timestamp_pb2.Timestamp(seconds=NOW_US // 1_000_000 + 60)
    made = await furnished.as_admin(
        "CreateApiKey",
        pb.CreateApiKeyRequest(role=pb.ROLE_TENANT, tenant="tenants/acme", display_name="CI", expire_time=expires),
    )
    assert made.api_key.name == f"apiKeys/{made.secret.split('_')[2]}"
    assert (made.api_key.display_name, made.api_key.expire_time) == ("CI", expires)
    await furnished.call(made.secret, "GetBrand", request_of("GetBrand", "acme"))
    revoked = await furnished.as_admin("RevokeApiKey", pb.RevokeApiKeyRequest(name=made.api_key.name))
    assert revoked.api_key.HasField("revoke_time")
    again = await furnished.as_admin("RevokeApiKey", pb.RevokeApiKeyRequest(name=made.api_key.name))
    assert again == pb.RevokeApiKeyResponse(api_key=revoked.api_key)
    answer = await refusal(furnished.call(made.secret, "GetBrand", request_of("GetBrand", "acme")))
    assert answer[1] == "UNAUTHENTICATED"
    listed = await furnished.as_admin("ListApiKeys", pb.ListApiKeysRequest(tenant="tenants/acme"))
    assert list(listed.api_keys) == [revoked.api_key]
    assert made.secret not in str(listed)
    admins = await furnished.as_admin("ListApiKeys", pb.ListApiKeysRequest())
    assert [(key.tenant, key.role) for key in admins.api_keys] == [("", pb.ROLE_ADMIN)]


async def test_no_table_holds_a_key(furnished: Served) -> None:
    secret = await furnished.tenant_key("acme")
    dump = "\n".join(map(str, furnished.store.connection.execute("SELECT * FROM api_keys").fetchall()))
    assert secret.split("_")[2] in dump
    assert secret.split("_")[3] not in dump


async def test_a_key_moves_to_a_new_secret_in_the_store(furnished: Served) -> None:
    key = await furnished.tenant_key("acme")
    prefix = key.split("_")[2]

    def move(control: sa.Connection) -> frozenset[str]:
        api_keys.rehash(control, {prefix: ("k2", b"h" * 32), "unknownprefx": ("k2", b"h" * 32)})
        return api_keys.hash_keys_in_use(control, now_us=NOW_US)

    before = furnished.store.run(read_version)
    assert furnished.store.run(move) == {"k1", "k2"}
    assert furnished.store.run(read_version) == before + 1


async def test_bootstrap_can_tell_whether_an_admin_key_works(furnished: Served) -> None:
    def asked(control: sa.Connection) -> tuple[bool, bool]:
        return api_keys.has_any_key(control), api_keys.has_live_admin(control, now_us=NOW_US)

    assert furnished.store.run(asked) == (True, True)
    prefix = furnished.admin.split("_")[2]
    await furnished.as_admin("RevokeApiKey", pb.RevokeApiKeyRequest(name=f"apiKeys/{prefix}"))
    assert furnished.store.run(asked) == (True, False)


def quota(**fields: object) -> pb.Quota:
    made = pb.Quota(
        scope=pb.QUOTA_SCOPE_CAMPAIGN,
        subject="campaigns/acme-campaign",
        unit=pb.QUOTA_UNIT_SEGMENTS,
        amount=100,
        window_ms=60_000,
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def daily(**fields: object) -> pb.Quota:
    fields = {"window_ms": 0, "scope": 4, "subject": "brands/acme-brand", "carrier": pb.CARRIER_TMOBILE} | fields
    return quota(**fields)


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        (quota(scope=0), "quota.scope"),
        (quota(scope=99), "quota.scope"),
        (quota(unit=0), "quota.unit"),
        (quota(amount=0), "quota.amount"),
        (quota(amount=-1), "quota.amount"),
        (quota(amount=2**62), "quota.amount"),
        (quota(window_ms=0), "quota.window_ms"),
        (quota(window_ms=32 * 86_400_000), "quota.window_ms"),
        (quota(burst=-1), "quota.burst"),
        (quota(burst=100), "quota.burst"),
        (quota(burst=101), "quota.burst"),
        (quota(carrier=pb.CARRIER_ATT), "quota.carrier"),
        (quota(scope=3), "quota.carrier"),
        (quota(scope=3, carrier=99), "quota.carrier"),
        (quota(subject="brands/acme-brand"), "quota.subject"),
        (quota(subject=""), "quota.subject"),
        (quota(scope=1, subject="numbers/123"), "quota.subject"),
        (quota(time_zone="UTC"), "quota.time_zone"),
        (quota(reserved_percent=1), "quota.reserved_percent"),
        (quota(reserved_class=1), "quota.reserved_class"),
        (quota(scope=5, subject="providers/telnyx"), "tenant"),
        (daily(window_ms=1000), "quota.window_ms"),
        (daily(burst=5), "quota.burst"),
        (daily(time_zone="Mars/Olympus"), "quota.time_zone"),
        (daily(reserved_percent=101, reserved_class=1), "quota.reserved_percent"),
        (daily(reserved_percent=-1), "quota.reserved_percent"),
        (daily(reserved_percent=10), "quota.reserved_class"),
        (daily(reserved_percent=10, reserved_class=3), "quota.reserved_class"),
        (daily(reserved_class=1), "quota.reserved_class"),
    ],
)
async def test_a_quota_that_cannot_be_kept_is_refused(furnished: Served, wish: pb.Quota, field: str) -> None:
    answer = await refusal(furnished.as_admin("SetQuota", pb.SetQuotaRequest(tenant="tenants/acme", quota=wish)))
    assert answer[:3] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field)


@pytest.mark.parametrize(
    ("tenant", "wish", "code"),
    [
        ("", quota(scope=5, subject="providers/absent"), "NOT_FOUND"),
        ("tenants/acme", quota(scope=6, subject="tenants/bolt"), "NOT_FOUND"),
        ("tenants/acme", quota(scope=1, subject="numbers/+12025550177"), "NOT_FOUND"),
        ("tenants/acme", daily(subject="brands/bolt-brand"), "NOT_FOUND"),
        ("", quota(), "INVALID_FIELD"),
    ],
)
async def test_a_quotas_subject_exists_and_is_the_tenants(
    furnished: Served, tenant: str, wish: pb.Quota, code: str
) -> None:
    assert (await refusal(furnished.as_admin("SetQuota", pb.SetQuotaRequest(tenant=tenant, quota=wish))))[1] == code


async def test_every_scope_reaches_the_snapshot_with_its_subjects_key(furnished: Served) -> None:
    wishes = [
        ("acme", quota(scope=1, subject=f"numbers/{number_of('acme')}")),
        ("acme", quota(scope=2, amount=2400, burst=7)),
        ("acme", quota(scope=3, carrier=pb.CARRIER_ATT)),
        ("acme", daily(amount=2000, reserved_percent=20, reserved_class=messaging_pb2.MESSAGE_CLASS_CRITICAL)),
        ("", quota(scope=5, subject="providers/telnyx", unit=pb.QUOTA_UNIT_MESSAGES)),
        ("acme", quota(scope=6, subject="tenants/acme", window_ms=1)),
    ]
    first = 3  # keys 1 and 2 were given to the furniture
    for tenant, wish in wishes:
        owner = f"tenants/{tenant}" if tenant else ""
        response = await furnished.as_admin("SetQuota", pb.SetQuotaRequest(tenant=owner, quota=wish))
        assert (response.quota.subject, response.quota.carrier) == (wish.subject, wish.carrier)
    rows: RegistryRows = furnished.store.run(snapshot)
    day_us = 86_400_000_000
    assert sorted(rows.quotas, key=lambda row: row[1]) == [
        (first, 1, 12025550101, 0, 1, 100, 60_000_000, 10, 0, 0),
        (1, 2, 1, 0, 1, 2400, 60_000_000, 7, 0, 0),
        (2, 2, 2, 0, 1, 75, 60_000_000, 10, 0, 0),
        (first + 1, 3, 1, 1, 1, 100, 60_000_000, 10, 0, 0),
        (first + 2, 4, 1, 2, 1, 2000, day_us, 2000, 20, 1),
        (first + 3, 5, 1, 0, 2, 100, 60_000_000, 10, 0, 0),
        (first + 4, 6, 1, 0, 1, 100, 1000, 10, 0, 0),
    ]
    assert rows.time_zones == [(first + 2, "America/Los_Angeles")]
    assert rows.campaigns[0] == (1, 1, 1, "acme-campaign", 1, 2, "profile", [12025550101])
    assert (rows.tenant_ids, rows.providers) == ([(1, "acme"), (2, "bolt")], [(1, "telnyx")])
    assert rows.version == furnished.store.run(read_version)
    provider_quotas = await furnished.as_admin("ListQuotas", pb.ListQuotasRequest())
    assert [q.subject for q in provider_quotas.quotas] == ["providers/telnyx"]


async def test_a_set_quota_replaces_and_a_read_one_can_be_set_again(furnished: Served) -> None:
    for wish in (quota(amount=50), daily(reserved_percent=5, reserved_class=2)):
        first = await furnished.as_admin("SetQuota", pb.SetQuotaRequest(tenant="tenants/acme", quota=wish))
        again = await furnished.as_admin("SetQuota", pb.SetQuotaRequest(tenant="tenants/acme", quota=first.quota))
        assert again == first
    listed = await furnished.as_admin("ListQuotas", pb.ListQuotasRequest(tenant="tenants/acme"))
    assert [(q.name, q.amount) for q in listed.quotas] == [("quotas/1", 50), ("quotas/3", 100)]


async def test_a_removed_quotas_key_is_never_used_again(furnished: Served) -> None:
    made = await furnished.as_admin("SetQuota", pb.SetQuotaRequest(tenant="tenants/acme", quota=daily()))
    await furnished.as_admin("DeleteQuota", pb.DeleteQuotaRequest(name=made.quota.name))
    gone = await refusal(furnished.as_admin("DeleteQuota", pb.DeleteQuotaRequest(name=made.quota.name)))
    assert gone[1] == "NOT_FOUND"
    anew = await furnished.as_admin("SetQuota", pb.SetQuotaRequest(tenant="tenants/acme", quota=daily()))
    assert (made.quota.name, anew.quota.name) == ("quotas/3", "quotas/4")


@pytest.mark.parametrize(
    ("amount", "burst"), [(1, 1), (2, 1), (10, 5), (20, 10), (75, 10), (200, 10), (220, 11), (2400, 120)]
)
def test_the_default_burst(amount: int, burst: int) -> None:
    assert quotas.default_burst(amount) == burst
    assert 1 <= burst <= max(1, amount - 1)


def listing(method: str) -> tuple[str, str]:
    """Name of the list in the response, and of what makes one of its items."""
    return {
        "ListTenants": ("tenants", "CreateTenant"),
        "ListBrands": ("brands", "CreateBrand"),
        "ListCampaigns": ("campaigns", "CreateCampaign"),
        "ListNumbers": ("numbers", "CreateNumber"),
        "ListApiKeys": ("api_keys", "CreateApiKey"),
        "ListQuotas": ("quotas", "SetQuota"),
    }[method]


def nth(request: Any, number: int) -> Any:
    """The request for the n-th item: other id, other number, other carrier."""
    for field in ("tenant_id", "brand_id", "campaign_id"):
        if field in request.DESCRIPTOR.fields_by_name:
            setattr(request, field, f"item-{number}")
    if isinstance(request, pb.CreateNumberRequest):
        request.number = f"+1202555011{number}"
    if isinstance(request, pb.SetQuotaRequest):
        request.quota.scope = pb.QUOTA_SCOPE_CAMPAIGN_CARRIER
        request.quota.carrier = number + 1  # type: ignore[assignment]
    return request


@pytest.mark.parametrize("method", [name for name in METHODS if name.startswith("List")])
async def test_pages_hold_every_item_once_and_a_token_fits_its_listing_only(furnished: Served, method: str) -> None:
    items, making = listing(method)
    for number in range(5):
        await furnished.as_admin(making, nth(with_tenant(request_of(making, "acme"), "acme"), number))
    whole = await furnished.as_admin(method, with_tenant(request_of(method, "acme"), "acme"))
    assert len(getattr(whole, items)) >= 5
    assert whole.next_page_token == ""
    seen: list[str] = []
    token, last_token, pages = "", "", 0
    while token or not pages:
        request = with_tenant(request_of(method, "acme"), "acme")
        request.page_size, request.page_token = 2, token
        page = await furnished.as_admin(method, request)
        seen += [item.name for item in getattr(page, items)]
        assert len(getattr(page, items)) <= 2
        token, pages = page.next_page_token, pages + 1
        last_token = token or last_token
    assert seen == [item.name for item in getattr(whole, items)]
    assert pages == -(-len(seen) // 2)

    for other, tenant, wrong in (
        (method, "acme", last_token[:-1]),
        (method, "acme", "!" + last_token),
        (method, "acme", "A" * 500),
        ("ListNumbers" if method != "ListNumbers" else "ListBrands", "acme", last_token),
        *([] if method == "ListTenants" else [(method, "bolt", last_token)]),
    ):
        request = with_tenant(request_of(other, tenant), tenant)
        request.page_token = wrong
        answer = await refusal(furnished.as_admin(other, request))
        assert answer[:3] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN", "page_token")


async def test_a_bug_answers_internal_without_its_text(
    furnished: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_arguments: object, **_named: object) -> None:
        raise KeyError(NUMBER)

    monkeypatch.setattr(quotas, "list_quotas", broken)
    answer = await refusal(furnished.as_admin("ListQuotas", pb.ListQuotasRequest()))
    assert answer[:2] == (grpc.StatusCode.INTERNAL, "INTERNAL")
    printed = capsys.readouterr()
    assert NUMBER not in answer[3] + printed.out + printed.err


async def test_a_provider_is_made_once(furnished: Served) -> None:
    assert furnished.store.run(lambda c: ensure_provider(c, "telnyx")) == 1
    assert furnished.store.run(lambda c: ensure_provider(c, "other")) == 2
    assert furnished.store.run(lambda c: ensure_provider(c, "other")) == 2
