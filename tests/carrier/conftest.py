"""A carrier and a webhook receiver in the test's own loop, on free ports of 127.0.0.1."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from loadtest.carrier.config import Config, parse_config
from loadtest.carrier.ledger import RecordFile
from loadtest.carrier.server import CarrierServer
from loadtest.carrier.signing import key_seed_from
from loadtest.carrier.state import StartUp

API_KEY = "KEY_made_up"
WAIT_S = 20


@dataclass
class Webhook:
    """One webhook request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> dict[str, Any]:
        return dict(json.loads(self.body)["data"])

    @property
    def meta(self) -> dict[str, Any]:
        return dict(json.loads(self.body)["meta"])

    @property
    def kind(self) -> str:
        return str(self.data["event_type"])

    @property
    def status(self) -> str:
        return str(self.data["payload"]["to"][0]["status"])

    def is_signed_by(self, public_key_base64: str) -> bool:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key_base64))
        signed = self.headers["telnyx-timestamp"].encode() + b"|" + self.body
        try:
            key.verify(base64.b64decode(self.headers["telnyx-signature-ed25519"]), signed)
        except InvalidSignature:
            return False
        return True


@dataclass
class Receiver:
    """Takes webhooks; `answers` are the next statuses (200 when used up), `hold` keeps answers back until set."""

    url: str = ""
    got: list[Webhook] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    hold: asyncio.Event | None = None
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        async with self.arrived:
            self.got.append(Webhook(request.path_qs, headers, await request.read()))
            self.arrived.notify_all()
        if self.hold is not None:
            await self.hold.wait()
        return web.Response(status=self.answers.pop(0) if self.answers else 200)

    async def wait_for(self, count: int) -> list[Webhook]:
        async with asyncio.timeout(WAIT_S), self.arrived:
            await self.arrived.wait_for(lambda: len(self.got) >= count)
        return self.got


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["errors"][0]["code"])


@dataclass
class Bench:
    """A carrier with everything a test does to it."""

    server: CarrierServer
    session: aiohttp.ClientSession
    receiver: Receiver

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def public_key(self) -> str:
        return self.server.carrier.signer.public_key_base64

    async def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        wait_s: float = WAIT_S,
    ) -> Answer:
        timeout = aiohttp.ClientTimeout(total=wait_s)
        async with self.session.request(
            method, self.url + path, data=body, headers=headers, timeout=timeout, auto_decompress=False
        ) as response:
            names = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, names, await response.read())

    async def send(self, *, key: str | None = None, wait_s: float = WAIT_S, **fields: Any) -> Answer:
        """Send a message; `from_` stands for `from`, what is left out has a default, None leaves it out."""
        message = {
            "from": fields.pop("from_", "+12025550100"),
            "to": "+12025550123",
            "text": "Your order has shipped.",
            "webhook_url": self.receiver.url,
        }
        message.update(fields)
        return await self.post({name: value for name, value in message.items() if value is not None}, key, wait_s)

    async def post(self, message: object, key: str | None = None, wait_s: float = WAIT_S) -> Answer:
        headers = {"authorization": f"Bearer {API_KEY}", "content-type": "application/json"}
        if key is not None:
            headers["idempotency-key"] = key
        return await self.call("POST", "/v2/messages", json.dumps(message).encode(), headers, wait_s)

    async def look_up(self, message_id: str) -> Answer:
        return await self.call("GET", f"/v2/messages/{message_id}", None, {"authorization": f"Bearer {API_KEY}"})

    async def control(self, method: str, path: str, values: object = None) -> Answer:
        body = None if values is None else json.dumps(values).encode()
        return await self.call(method, "/control/" + path, body)

    async def set(self, **settings: Any) -> None:
        answer = await self.control("PATCH", "config", settings)
        assert answer.status == 200, answer.body

    async def records(self) -> list[dict[str, Any]]:
        answer = await self.control("GET", "messages?limit=10000")
        return [json.loads(line) for line in answer.body.splitlines()]

    async def stats(self) -> dict[str, Any]:
        return dict((await self.control("GET", "stats")).json)

    async def settle(self) -> list[Webhook]:
        """Wait until no receipt is left; gives all webhooks so far."""
        assert (await self.control("GET", f"idle?wait_ms={WAIT_S * 1000}")).json == {"idle": True}
        return self.receiver.got


QUICK = {
    "latency_min_ms": 0,
    "latency_mean_ms": 0,
    "latency_max_ms": 0,
    "receipt_delay_min_ms": 1,
    "receipt_delay_mean_ms": 2,
    "receipt_delay_max_ms": 3,
    "webhook_backoff_ms": 1,
}

StartBench = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def start_bench() -> AsyncIterator[StartBench]:
    """Start any number of carriers, each with a receiver; `settings` lie over quick defaults."""
    stops: list[Callable[[], Awaitable[object]]] = []

    async def start(record_file: RecordFile | None = None, **settings: Any) -> Bench:
        receiver = Receiver()
        application = web.Application()
        application.router.add_post("/{anything:.*}", receiver.handle)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        receiver.url = f"http://{host}:{port}/hooks?message=1"
        config = parse_config({**QUICK, **settings}, Config())
        start_up = StartUp(config=config, api_key=API_KEY, key_seed=key_seed_from(config.seed))
        server = await CarrierServer.start(start_up, "127.0.0.1", 0, record_file)
        session = aiohttp.ClientSession()
        stops.extend((session.close, server.stop, runner.cleanup))
        return Bench(server, session, receiver)

    yield start
    for stop in stops:
        await stop()


@pytest.fixture
async def bench(start_bench: StartBench) -> Bench:
    """One carrier where everything goes well, at once."""
    return await start_bench()
