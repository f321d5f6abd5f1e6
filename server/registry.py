"""RegistryService: tenants, brands, campaigns, numbers, keys and quotas by RPC.

It holds no state and keeps no rule of the registry (`engine/registry` does); it says who may call what, and turns
messages into records and back.

Invariants: a call is one transaction on the writer's thread; writing needs a key of role ADMIN, refused before anything
is looked up; with a key of role TENANT every look-up is confined to its own tenant, so that another's id takes the way,
the time and the answer of a missing one; a write is in force on this node when it is answered.
"""

# ruff: noqa: N802 - the contract names the methods

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import sqlalchemy as sa

from engine.registry import api_keys, campaigns, pages, quotas, tenants
from engine.registry.names import digits_of, id_of, not_found, number_of, prefix_of, quota_of, refuse
from engine.registry.records import Role, Tenant
from engine.secrets import Secrets
from longwave.v1 import registry_pb2, registry_pb2_grpc
from server import registry_messages as messages
from server.auth import Authenticator, Principal, require
from server.status import abort, refusal_of

if TYPE_CHECKING:
    import grpc.aio

Response = TypeVar("Response")
Row = TypeVar("Row")
# Only the stubs know the parameters.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Act = Callable[[sa.Connection, Principal], Response]


class Run(Protocol):
    """Executes a function in a transaction on the writer's thread; its error rolls back and comes out here."""

    async def __call__(self, act: Callable[[sa.Connection], Response], /) -> Response:
        """The function's result, after the commit."""


class RegistryService(registry_pb2_grpc.RegistryServiceServicer):
    """The contract's service; see `proto/longwave/v1/registry.proto`."""

    def __init__(
        self,
        run: Run,
        on_changed: Callable[[], Awaitable[None]],
        authenticator: Authenticator,
        secrets: Secrets,
        now_us: Callable[[], int],
    ) -> None:
        """Serve over `run`; `on_changed` is awaited after every write, before its answer."""
        self._run = run
        self._on_changed = on_changed
        self._authenticator = authenticator
        self._secrets = secrets
        self._now_us = now_us

    async def CreateTenant(
        self, request: registry_pb2.CreateTenantRequest, context: Context
    ) -> registry_pb2.CreateTenantResponse:
        """Make a tenant."""

        def act(control: sa.Connection, _principal: Principal) -> registry_pb2.CreateTenantResponse:
            tenant = tenants.create_tenant(control, request.tenant_id, request.display_name, now_us=self._now_us())
            return registry_pb2.CreateTenantResponse(tenant=messages.tenant_message(tenant))

        return await self._write(context, act)

    async def GetTenant(
        self, request: registry_pb2.GetTenantRequest, context: Context
    ) -> registry_pb2.GetTenantResponse:
        """One tenant."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.GetTenantResponse:
            tenant = _tenant(control, principal, request.name, "name")
            return registry_pb2.GetTenantResponse(tenant=messages.tenant_message(tenant))

        return await self._read(context, act)

    async def ListTenants(
        self, request: registry_pb2.ListTenantsRequest, context: Context
    ) -> registry_pb2.ListTenantsResponse:
        """All tenants; a TENANT key sees its own."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.ListTenantsResponse:
            rows_max = pages.page_rows(request.page_size)
            after = pages.after(request.page_token, "tenants", str(principal.tenant))
            if principal.tenant is None:
                rows = tenants.list_tenants(control, after=after, rows_max=rows_max + 1)
            else:
                own = tenants.find_tenant_of_key(control, principal.tenant)
                rows = [own] if own.id > after else []
            shown, last = _page(rows, rows_max)
            return registry_pb2.ListTenantsResponse(
                tenants=map(messages.tenant_message, shown),
                next_page_token=pages.issue(last.id, "tenants", str(principal.tenant)) if last else "",
            )

        return await self._read(context, act)

    async def UpdateTenant(
        self, request: registry_pb2.UpdateTenantRequest, context: Context
    ) -> registry_pb2.UpdateTenantResponse:
        """Suspend or resume a tenant."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.UpdateTenantResponse:
            tenant = _tenant(control, principal, request.name, "name")
            tenant = tenants.set_tenant_state(control, tenant, messages.tenant_state(request.state))
            return registry_pb2.UpdateTenantResponse(tenant=messages.tenant_message(tenant))

        return await self._write(context, act)

    async def CreateBrand(
        self, request: registry_pb2.CreateBrandRequest, context: Context
    ) -> registry_pb2.CreateBrandResponse:
        """Make a brand."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.CreateBrandResponse:
            tenant = _tenant(control, principal, request.tenant)
            brand = tenants.create_brand(
                control,
                tenant,
                request.brand_id,
                display_name=request.display_name,
                ein=request.ein,
                now_us=self._now_us(),
            )
            return registry_pb2.CreateBrandResponse(brand=messages.brand_message(tenant, brand))

        return await self._write(context, act)

    async def GetBrand(self, request: registry_pb2.GetBrandRequest, context: Context) -> registry_pb2.GetBrandResponse:
        """One brand."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.GetBrandResponse:
            tenant = _tenant(control, principal, request.tenant)
            brand = tenants.find_brand(control, tenant, id_of(request.name, "brands", "name"))
            return registry_pb2.GetBrandResponse(brand=messages.brand_message(tenant, brand))

        return await self._read(context, act)

    async def ListBrands(
        self, request: registry_pb2.ListBrandsRequest, context: Context
    ) -> registry_pb2.ListBrandsResponse:
        """Brands of a tenant."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.ListBrandsResponse:
            rows_max = pages.page_rows(request.page_size)
            tenant = _tenant(control, principal, request.tenant)
            after = pages.after(request.page_token, "brands", tenant.id)
            rows, last = _page(tenants.list_brands(control, tenant, after=after, rows_max=rows_max + 1), rows_max)
            return registry_pb2.ListBrandsResponse(
                brands=(messages.brand_message(tenant, brand) for brand in rows),
                next_page_token=pages.issue(last.id, "brands", tenant.id) if last else "",
            )

        return await self._read(context, act)

    async def CreateCampaign(
        self, request: registry_pb2.CreateCampaignRequest, context: Context
    ) -> registry_pb2.CreateCampaignResponse:
        """Make a campaign."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.CreateCampaignResponse:
            tenant = _tenant(control, principal, request.tenant)
            campaign = campaigns.create_campaign(
                control,
                tenant,
                tenants.find_brand(control, tenant, id_of(request.brand, "brands", "brand")),
                request.campaign_id,
                tcr_campaign=request.tcr_campaign,
                use_case=request.use_case,
                on_unknown=messages.on_unknown(request.on_unknown),
                messaging_profile=request.messaging_profile,
                now_us=self._now_us(),
            )
            return registry_pb2.CreateCampaignResponse(campaign=messages.campaign_message(tenant, campaign))

        return await self._write(context, act)

    async def GetCampaign(
        self, request: registry_pb2.GetCampaignRequest, context: Context
    ) -> registry_pb2.GetCampaignResponse:
        """One campaign."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.GetCampaignResponse:
            tenant = _tenant(control, principal, request.tenant)
            campaign = campaigns.find_campaign(control, tenant, id_of(request.name, "campaigns", "name"))
            return registry_pb2.GetCampaignResponse(campaign=messages.campaign_message(tenant, campaign))

        return await self._read(context, act)

    async def ListCampaigns(
        self, request: registry_pb2.ListCampaignsRequest, context: Context
    ) -> registry_pb2.ListCampaignsResponse:
        """Campaigns of a tenant."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.ListCampaignsResponse:
            rows_max = pages.page_rows(request.page_size)
            tenant = _tenant(control, principal, request.tenant)
            after = pages.after(request.page_token, "campaigns", tenant.id)
            rows, last = _page(campaigns.list_campaigns(control, tenant, after=after, rows_max=rows_max + 1), rows_max)
            return registry_pb2.ListCampaignsResponse(
                campaigns=(messages.campaign_message(tenant, campaign) for campaign in rows),
                next_page_token=pages.issue(last.id, "campaigns", tenant.id) if last else "",
            )

        return await self._read(context, act)

    async def UpdateCampaign(
        self, request: registry_pb2.UpdateCampaignRequest, context: Context
    ) -> registry_pb2.UpdateCampaignResponse:
        """Pause, resume or stop a campaign, or change its policy."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.UpdateCampaignResponse:
            tenant = _tenant(control, principal, request.tenant)
            campaign = campaigns.find_campaign(control, tenant, id_of(request.name, "campaigns", "name"))
            campaign = campaigns.update_campaign(
                control,
                tenant,
                campaign,
                state=messages.campaign_state(request.state),
                on_unknown=messages.on_unknown(request.on_unknown) or None,
            )
            return registry_pb2.UpdateCampaignResponse(campaign=messages.campaign_message(tenant, campaign))

        return await self._write(context, act)

    async def CreateNumber(
        self, request: registry_pb2.CreateNumberRequest, context: Context
    ) -> registry_pb2.CreateNumberResponse:
        """Assign a number to a campaign."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.CreateNumberResponse:
            tenant = _tenant(control, principal, request.tenant)
            campaign = campaigns.find_campaign(control, tenant, id_of(request.campaign, "campaigns", "campaign"))
            digits = digits_of(request.number, "number")
            number = campaigns.create_number(control, tenant, campaign, digits, now_us=self._now_us())
            return registry_pb2.CreateNumberResponse(number=messages.number_message(tenant, number))

        return await self._write(context, act)

    async def GetNumber(
        self, request: registry_pb2.GetNumberRequest, context: Context
    ) -> registry_pb2.GetNumberResponse:
        """One number."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.GetNumberResponse:
            tenant = _tenant(control, principal, request.tenant)
            number = campaigns.find_number(control, tenant, number_of(request.name, "name"))
            return registry_pb2.GetNumberResponse(number=messages.number_message(tenant, number))

        return await self._read(context, act)

    async def ListNumbers(
        self, request: registry_pb2.ListNumbersRequest, context: Context
    ) -> registry_pb2.ListNumbersResponse:
        """Numbers of a tenant."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.ListNumbersResponse:
            rows_max = pages.page_rows(request.page_size)
            tenant = _tenant(control, principal, request.tenant)
            after = pages.after_number(request.page_token, "numbers", tenant.id)
            rows, last = _page(campaigns.list_numbers(control, tenant, after=after, rows_max=rows_max + 1), rows_max)
            return registry_pb2.ListNumbersResponse(
                numbers=(messages.number_message(tenant, number) for number in rows),
                next_page_token=pages.issue(str(last.digits), "numbers", tenant.id) if last else "",
            )

        return await self._read(context, act)

    async def DeleteNumber(
        self, request: registry_pb2.DeleteNumberRequest, context: Context
    ) -> registry_pb2.DeleteNumberResponse:
        """Take a number away."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.DeleteNumberResponse:
            tenant = _tenant(control, principal, request.tenant)
            campaigns.delete_number(control, tenant, number_of(request.name, "name"))
            return registry_pb2.DeleteNumberResponse()

        return await self._write(context, act)

    async def CreateApiKey(
        self, request: registry_pb2.CreateApiKeyRequest, context: Context
    ) -> registry_pb2.CreateApiKeyResponse:
        """Make an API key; its secret is in this answer only."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.CreateApiKeyResponse:
            role = messages.role_of(request.role)
            expires = request.HasField("expire_time")
            key, token = api_keys.create_api_key(
                control,
                self._secrets,
                role=role,
                tenant=_tenant(control, principal, request.tenant) if request.tenant else None,
                display_name=request.display_name,
                expire_us=messages.micros_of(request.expire_time, "expire_time") if expires else None,
                now_us=self._now_us(),
            )
            return registry_pb2.CreateApiKeyResponse(api_key=messages.api_key_message(key), secret=token.text)

        return await self._write(context, act)

    async def ListApiKeys(
        self, request: registry_pb2.ListApiKeysRequest, context: Context
    ) -> registry_pb2.ListApiKeysResponse:
        """Keys of a tenant, or the ADMIN keys."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.ListApiKeysResponse:
            rows_max = pages.page_rows(request.page_size)
            tenant = _tenant_or_none(control, principal, request.tenant)
            owner = tenant.id if tenant else ""
            after = pages.after(request.page_token, "apiKeys", owner)
            rows, last = _page(api_keys.list_api_keys(control, tenant, after=after, rows_max=rows_max + 1), rows_max)
            return registry_pb2.ListApiKeysResponse(
                api_keys=map(messages.api_key_message, rows),
                next_page_token=pages.issue(last.prefix, "apiKeys", owner) if last else "",
            )

        return await self._read(context, act)

    async def RevokeApiKey(
        self, request: registry_pb2.RevokeApiKeyRequest, context: Context
    ) -> registry_pb2.RevokeApiKeyResponse:
        """Revoke a key."""

        def act(control: sa.Connection, _principal: Principal) -> registry_pb2.RevokeApiKeyResponse:
            key = api_keys.revoke_api_key(control, prefix_of(request.name, "name"), now_us=self._now_us())
            return registry_pb2.RevokeApiKeyResponse(api_key=messages.api_key_message(key))

        return await self._write(context, act)

    async def SetQuota(self, request: registry_pb2.SetQuotaRequest, context: Context) -> registry_pb2.SetQuotaResponse:
        """Set a quota; replaces one of the same scope, subject, carrier and unit."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.SetQuotaResponse:
            tenant = _tenant_or_none(control, principal, request.tenant)
            quota = quotas.set_quota(control, tenant, messages.quota_wish(request.quota))
            return registry_pb2.SetQuotaResponse(quota=messages.quota_message(quota))

        return await self._write(context, act)

    async def ListQuotas(
        self, request: registry_pb2.ListQuotasRequest, context: Context
    ) -> registry_pb2.ListQuotasResponse:
        """Quotas of a tenant, or of the providers."""

        def act(control: sa.Connection, principal: Principal) -> registry_pb2.ListQuotasResponse:
            rows_max = pages.page_rows(request.page_size)
            tenant = _tenant_or_none(control, principal, request.tenant)
            owner = tenant.id if tenant else ""
            after = pages.after_number(request.page_token, "quotas", owner)
            rows, last = _page(quotas.list_quotas(control, tenant, after=after, rows_max=rows_max + 1), rows_max)
            return registry_pb2.ListQuotasResponse(
                quotas=map(messages.quota_message, rows),
                next_page_token=pages.issue(str(last.key), "quotas", owner) if last else "",
            )

        return await self._read(context, act)

    async def DeleteQuota(
        self, request: registry_pb2.DeleteQuotaRequest, context: Context
    ) -> registry_pb2.DeleteQuotaResponse:
        """Remove a quota."""

        def act(control: sa.Connection, _principal: Principal) -> registry_pb2.DeleteQuotaResponse:
            quotas.delete_quota(control, quota_of(request.name, "name"))
            return registry_pb2.DeleteQuotaResponse()

        return await self._write(context, act)

    async def _read(self, context: Context, act: Act[Response]) -> Response:
        return await self._call(context, act, writes=False)

    async def _write(self, context: Context, act: Act[Response]) -> Response:
        return await self._call(context, act, writes=True)

    async def _call(self, context: Context, act: Act[Response], *, writes: bool) -> Response:
        try:
            principal = self._authenticator.authenticate(
                context.invocation_metadata(), context.peer(), now_us=self._now_us()
            )
            if writes:
                require(principal, Role.ADMIN)
            response = await self._run(lambda control: act(control, principal))
            if writes:
                await self._on_changed()
        except Exception as error:  # noqa: BLE001 - the last place that can answer
            await abort(context, refusal_of(error, method=act.__qualname__))
        return response


def _tenant(control: sa.Connection, principal: Principal, name: str, field: str = "tenant") -> Tenant:
    """The tenant a call is about: its own for a TENANT key, the one named for an ADMIN key. Raises Refused."""
    if principal.tenant is not None:
        own = tenants.find_tenant_of_key(control, principal.tenant)
        if name and id_of(name, "tenants", field) != own.id:
            raise not_found()
        return own
    if not name:
        raise refuse(field, "name the tenant: an ADMIN key has none")
    return tenants.find_tenant(control, id_of(name, "tenants", field))


def _tenant_or_none(control: sa.Connection, principal: Principal, name: str) -> Tenant | None:
    """As `_tenant`, where an ADMIN key may mean what is no tenant's."""
    if principal.tenant is None and not name:
        return None
    return _tenant(control, principal, name)


def _page(rows: Sequence[Row], rows_max: int) -> tuple[Sequence[Row], Row | None]:
    """The rows of a page, of which one more was asked for, and the last of them when more follow."""
    return rows[:rows_max], rows[rows_max - 1] if len(rows) > rows_max else None
