"""The registry sub-client: one typed method for each call of RegistryService, for both transports.

It adds nothing to the calls: a method takes the call's request and returns its response.
"""

from collections.abc import Awaitable
from typing import Generic, Protocol, TypeVar, overload

from google.protobuf.message import Message as ProtoMessage

from longwave import contract
from longwave.contract import Method, Request, Response

Request_contra = TypeVar("Request_contra", bound=ProtoMessage, contravariant=True)
Response_co = TypeVar("Response_co", bound=ProtoMessage, covariant=True)


class SyncCall(Protocol[Request_contra, Response_co]):
    """A call that returns its response; `deadline_s` covers all tries."""

    def __call__(self, request: Request_contra, /, *, deadline_s: float | None = None) -> Response_co:
        """Make the call."""


class AsyncCall(Protocol[Request_contra, Response_co]):
    """A call whose response is awaited; `deadline_s` covers all tries."""

    def __call__(self, request: Request_contra, /, *, deadline_s: float | None = None) -> Awaitable[Response_co]:
        """Make the call."""


class SyncCaller(Protocol):
    """The synchronous transport, as the registry needs it."""

    def call(self, method: Method[Request, Response], request: Request, *, deadline_s: float | None = None) -> Response:
        """Make a unary call."""


class AsyncCaller(Protocol):
    """The asyncio transport, as the registry needs it."""

    async def call(
        self, method: Method[Request, Response], request: Request, *, deadline_s: float | None = None
    ) -> Response:
        """Make a unary call."""


class _Rpc(Generic[Request, Response]):
    """A method of both sub-clients; which of them it is bound to decides what it returns."""

    def __init__(self, method: Method[Request, Response]) -> None:
        self._method = method

    @overload
    def __get__(self, client: "Registry", owner: type) -> SyncCall[Request, Response]: ...
    @overload
    def __get__(self, client: "AsyncRegistry", owner: type) -> AsyncCall[Request, Response]: ...
    def __get__(
        self, client: "Registry | AsyncRegistry", owner: type
    ) -> SyncCall[Request, Response] | AsyncCall[Request, Response]:
        method = self._method
        if isinstance(client, Registry):
            caller = client.caller

            def call(request: Request, /, *, deadline_s: float | None = None) -> Response:
                return caller.call(method, request, deadline_s=deadline_s)

            return call
        async_caller = client.caller

        def async_call(request: Request, /, *, deadline_s: float | None = None) -> Awaitable[Response]:
            return async_caller.call(method, request, deadline_s=deadline_s)

        return async_call


class _Methods:
    create_tenant = _Rpc(contract.CREATE_TENANT)
    get_tenant = _Rpc(contract.GET_TENANT)
    list_tenants = _Rpc(contract.LIST_TENANTS)
    update_tenant = _Rpc(contract.UPDATE_TENANT)
    create_brand = _Rpc(contract.CREATE_BRAND)
    get_brand = _Rpc(contract.GET_BRAND)
    list_brands = _Rpc(contract.LIST_BRANDS)
    create_campaign = _Rpc(contract.CREATE_CAMPAIGN)
    get_campaign = _Rpc(contract.GET_CAMPAIGN)
    list_campaigns = _Rpc(contract.LIST_CAMPAIGNS)
    update_campaign = _Rpc(contract.UPDATE_CAMPAIGN)
    create_number = _Rpc(contract.CREATE_NUMBER)
    get_number = _Rpc(contract.GET_NUMBER)
    list_numbers = _Rpc(contract.LIST_NUMBERS)
    delete_number = _Rpc(contract.DELETE_NUMBER)
    create_api_key = _Rpc(contract.CREATE_API_KEY)
    list_api_keys = _Rpc(contract.LIST_API_KEYS)
    revoke_api_key = _Rpc(contract.REVOKE_API_KEY)
    set_quota = _Rpc(contract.SET_QUOTA)
    list_quotas = _Rpc(contract.LIST_QUOTAS)
    delete_quota = _Rpc(contract.DELETE_QUOTA)


class Registry(_Methods):
    """RegistryService over the synchronous transport."""

    def __init__(self, caller: SyncCaller) -> None:
        self.caller = caller


class AsyncRegistry(_Methods):
    """RegistryService over the asyncio transport."""

    def __init__(self, caller: AsyncCaller) -> None:
        self.caller = caller
