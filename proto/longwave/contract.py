"""The calls of the contract as data: path, message types, and whether doing one twice equals doing it once.

It opens no connection and imports no gRPC. A test checks it against the descriptors, so that no call is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message as ProtoMessage

from longwave.v1 import admin_pb2 as a
from longwave.v1 import compliance_pb2 as c
from longwave.v1 import messaging_pb2 as m
from longwave.v1 import registry_pb2 as r

Request = TypeVar("Request", bound=ProtoMessage)
Response = TypeVar("Response", bound=ProtoMessage)

AUTHORIZATION_KEY: Final = "authorization"
"""Metadata that carries `Bearer <API key>`."""


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Response]):
    """A call; `repeatable` where a second one changes nothing, so that a lost answer may be asked for again."""

    path: str
    request: type[Request]
    parse: Callable[[bytes], Response]
    repeatable: bool


def _method(
    service: str, request: type[Request], response: type[Response], *, repeatable: bool
) -> Method[Request, Response]:
    name = request.DESCRIPTOR.name.removesuffix("Request")
    return Method(f"/longwave.v1.{service}/{name}", request, response.FromString, repeatable)


def _messaging(request: type[Request], response: type[Response], *, repeatable: bool) -> Method[Request, Response]:
    return _method("MessagingService", request, response, repeatable=repeatable)


def _compliance(request: type[Request], response: type[Response], *, repeatable: bool) -> Method[Request, Response]:
    return _method("ComplianceService", request, response, repeatable=repeatable)


def _registry(request: type[Request], response: type[Response], *, repeatable: bool) -> Method[Request, Response]:
    return _method("RegistryService", request, response, repeatable=repeatable)


# Submissions carry request ids. A watch and a stream have their own way of going on.
SUBMIT_MESSAGE = _messaging(m.SubmitMessageRequest, m.SubmitMessageResponse, repeatable=True)
SUBMIT_MESSAGES = _messaging(m.SubmitMessagesRequest, m.SubmitMessagesResponse, repeatable=True)
STREAM_MESSAGES = _messaging(m.StreamMessagesRequest, m.StreamMessagesResponse, repeatable=True)
GET_MESSAGE = _messaging(m.GetMessageRequest, m.GetMessageResponse, repeatable=True)
LIST_MESSAGES = _messaging(m.ListMessagesRequest, m.ListMessagesResponse, repeatable=True)
# A second cancel could be refused because the first one worked.
CANCEL_MESSAGE = _messaging(m.CancelMessageRequest, m.CancelMessageResponse, repeatable=False)
WATCH_EVENTS = _messaging(m.WatchEventsRequest, m.WatchEventsResponse, repeatable=True)
ADD_OPT_OUT = _compliance(c.AddOptOutRequest, c.AddOptOutResponse, repeatable=True)
# A second removal would say that there was none.
REMOVE_OPT_OUT = _compliance(c.RemoveOptOutRequest, c.RemoveOptOutResponse, repeatable=False)
LIST_OPT_OUTS = _compliance(c.ListOptOutsRequest, c.ListOptOutsResponse, repeatable=True)
GET_SERVER_INFO = _method("ServerService", a.GetServerInfoRequest, a.GetServerInfoResponse, repeatable=True)
CREATE_TENANT = _registry(r.CreateTenantRequest, r.CreateTenantResponse, repeatable=False)
GET_TENANT = _registry(r.GetTenantRequest, r.GetTenantResponse, repeatable=True)
LIST_TENANTS = _registry(r.ListTenantsRequest, r.ListTenantsResponse, repeatable=True)
UPDATE_TENANT = _registry(r.UpdateTenantRequest, r.UpdateTenantResponse, repeatable=True)
CREATE_BRAND = _registry(r.CreateBrandRequest, r.CreateBrandResponse, repeatable=False)
GET_BRAND = _registry(r.GetBrandRequest, r.GetBrandResponse, repeatable=True)
LIST_BRANDS = _registry(r.ListBrandsRequest, r.ListBrandsResponse, repeatable=True)
CREATE_CAMPAIGN = _registry(r.CreateCampaignRequest, r.CreateCampaignResponse, repeatable=False)
GET_CAMPAIGN = _registry(r.GetCampaignRequest, r.GetCampaignResponse, repeatable=True)
LIST_CAMPAIGNS = _registry(r.ListCampaignsRequest, r.ListCampaignsResponse, repeatable=True)
UPDATE_CAMPAIGN = _registry(r.UpdateCampaignRequest, r.UpdateCampaignResponse, repeatable=True)
CREATE_NUMBER = _registry(r.CreateNumberRequest, r.CreateNumberResponse, repeatable=False)
GET_NUMBER = _registry(r.GetNumberRequest, r.GetNumberResponse, repeatable=True)
LIST_NUMBERS = _registry(r.ListNumbersRequest, r.ListNumbersResponse, repeatable=True)
DELETE_NUMBER = _registry(r.DeleteNumberRequest, r.DeleteNumberResponse, repeatable=False)
CREATE_API_KEY = _registry(r.CreateApiKeyRequest, r.CreateApiKeyResponse, repeatable=False)
LIST_API_KEYS = _registry(r.ListApiKeysRequest, r.ListApiKeysResponse, repeatable=True)
REVOKE_API_KEY = _registry(r.RevokeApiKeyRequest, r.RevokeApiKeyResponse, repeatable=True)
SET_QUOTA = _registry(r.SetQuotaRequest, r.SetQuotaResponse, repeatable=True)
LIST_QUOTAS = _registry(r.ListQuotasRequest, r.ListQuotasResponse, repeatable=True)
DELETE_QUOTA = _registry(r.DeleteQuotaRequest, r.DeleteQuotaResponse, repeatable=False)
