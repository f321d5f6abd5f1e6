"""Where clients connect, what they refuse, and that no call of the contract is missing."""

import subprocess
import sys
from types import ModuleType

import pytest

from longwave import contract
from longwave.channels import Deadlines, Tls, is_local
from longwave.client import AsyncClient, BatchLimits, Client, InsecureAddressError, Submission
from longwave.contract import Method
from longwave.registry import AsyncRegistry, Registry
from longwave.v1 import admin_pb2, compliance_pb2, messaging_pb2, registry_pb2
from tests.sdk.fake_server import API_KEY, FakeServer


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("127.0.0.1:50051", True),
        ("127.8.9.10", True),
        ("localhost:1", True),
        ("[::1]:50051", True),
        ("::1", True),
        ("unix:/run/longwave.sock", True),
        ("unix-abstract:longwave", True),
        ("dns:///localhost:50051", True),
        ("dns://1.1.1.1/localhost:50051", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
        ("ipv6:[::1]:1", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ("dns:///engine.internal:50051", False),
        ("engine:50051", False),
        ("10.0.0.1:50051", False),
        ("0.0.0.0:50051", False),
        ("[2001:db8::1]:50051", False),
        ("localhost.example.com:1", False),
        ("127.0.0.1.example.com:1", False),
        ("", False),
    ],
)
def test_only_this_machine_is_local(target: str, *, local: bool) -> None:
    assert is_local(target) is local


def test_an_address_elsewhere_needs_tls_or_a_word() -> None:
    with pytest.raises(InsecureAddressError, match="tls=Tls"):
        Client("engine.internal:50051", api_key="k")
    Client("engine.internal:50051", api_key="k", insecure=True).close()
    Client("engine.internal:50051", api_key="k", tls=Tls()).close()


async def test_the_asyncio_client_refuses_the_same() -> None:
    with pytest.raises(InsecureAddressError, match="tls=Tls"):
        AsyncClient("engine.internal:50051", api_key="k")
    await AsyncClient("engine.internal:50051", api_key="k", tls=Tls()).close()


def test_address_and_key_come_from_the_environment(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWAVE_GRPC_ADDRESS", server.address)
    monkeypatch.setenv("LONGWAVE_API_KEY", "from-the-environment")
    with Client() as client:
        assert client.server_info().version == "1.2.3"
    assert server.seen[0].authorization == "Bearer from-the-environment"


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "ключ"])
def test_a_key_that_cannot_be_one_is_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGWAVE_API_KEY", raising=False)
    with pytest.raises(ValueError, match="API key"):
        Client(api_key=key)


def test_the_key_is_in_no_representation() -> None:
    with Client(api_key="lw_very_secret") as client:
        assert "lw_very_secret" not in repr(client._connection)
    assert "PRIVATE" not in repr(Tls(certificate_chain=b"chain", private_key=b"PRIVATE"))


def test_settings_without_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="private_key"):
        Tls(certificate_chain=b"chain")
    with pytest.raises(ValueError, match="positive"):
        Deadlines(total_s=0)
    with pytest.raises(ValueError, match="at least 1"):
        BatchLimits(batch_messages_max=0)
    with pytest.raises(ValueError, match="linger_s"):
        BatchLimits(linger_s=-1)


MODULES: list[ModuleType] = [admin_pb2, compliance_pb2, messaging_pb2, registry_pb2]


def test_every_call_of_the_contract_is_listed() -> None:
    declared = {
        f"/{service.full_name}/{method.name}": (method.input_type.name, method.output_type.name)
        for module in MODULES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    listed = {
        method.path: (method.request.DESCRIPTOR.name, method.parse(b"").DESCRIPTOR.name)
        for method in vars(contract).values()
        if isinstance(method, Method)
    }
    assert listed == declared


def registry_calls() -> list[str]:
    return [method.name for method in registry_pb2.DESCRIPTOR.services_by_name["RegistryService"].methods]


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).removeprefix("_")


@pytest.mark.parametrize("name", registry_calls())
def test_every_registry_call_has_a_method(server: FakeServer, name: str) -> None:
    with Client(server.address, api_key=API_KEY) as client:
        assert isinstance(client.registry, Registry)
        response = getattr(client.registry, snake(name))(getattr(registry_pb2, f"{name}Request")(), deadline_s=5.0)
    assert type(response).__name__ == f"{name}Response"
    assert [call.method for call in server.seen] == [name]
    assert server.deadlines_within(5.0)


async def test_registry_calls_are_awaited_on_asyncio(server: FakeServer) -> None:
    async with AsyncClient(server.address, api_key=API_KEY) as client:
        assert isinstance(client.registry, AsyncRegistry)
        response = await client.registry.set_quota(registry_pb2.SetQuotaRequest())
    assert isinstance(response, registry_pb2.SetQuotaResponse)


def test_importing_starts_no_thread_and_the_package_alone_imports_no_grpc() -> None:
    script = (
        "import sys, threading; import longwave, longwave.v1.messaging_pb2; assert 'grpc' not in sys.modules;"
        "import longwave.client; assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_submissions_are_the_messages_of_the_contract() -> None:
    assert Submission is messaging_pb2.Submission
