"""The operations surface: /metrics, /health, /ready and /admin/stats over HTTP, in the engine's own loop.

It serves no message and takes no webhook, and it is not meant for the internet.

Invariants:

- /health says only that the loop turns; /ready says whether work may be sent here, with every reason against it.
- /admin/stats needs the admin key unless the caller is this machine itself. A forwarding header is never believed: its
  presence only takes the exemption away, as a proxy on this machine would lend it to strangers. So does a foreign Host.
- Only route templates become labels; unknown paths and methods count as `other`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import time
from typing import TYPE_CHECKING, Final

import orjson
import uvicorn
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from engine.metrics import Metrics

_ROUTES: Final = frozenset({"/metrics", "/health", "/ready", "/admin/stats"})
_METHODS: Final = frozenset({"GET", "HEAD", "POST"})
_FORWARDING: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_SECURITY_HEADERS: Final = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
# Prometheus, two probes and a few people: 64 open connections are an accident, not a use.
_CONNECTIONS_MAX: Final = 64
_DRAIN_S: Final = 5


def make_app(
    metrics: Metrics,
    *,
    not_ready: Callable[[], Sequence[str]],
    stats: Callable[[], Awaitable[Mapping[str, object]]],
    authorize: Callable[[str], bool],
) -> ASGIApp:
    """Make the application.

    `not_ready` gives the reasons against taking work (not started, draining, store below its durability), none when
    ready. `stats` gives what /admin/stats shows. `authorize` gets the Authorization header and says whether it holds an
    admin key.
    """

    async def show_metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), headers={"content-type": content_type})

    async def health(_: Request) -> Response:
        return _json({"alive": True}, 200)

    async def ready(_: Request) -> Response:
        reasons = list(not_ready())
        return _json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def show_stats(request: Request) -> Response:
        if not _is_this_machine(request) and not authorize(request.headers.get("authorization", "")):
            return _json({"error": "an admin key is needed: Authorization: Bearer <key>"}, 401, bearer=True)
        return _json(await stats(), 200)

    app = Starlette(
        routes=[
            Route("/metrics", show_metrics),
            Route("/health", health),
            Route("/ready", ready),
            Route("/admin/stats", show_stats),
        ],
        exception_handlers={Exception: _failed},
    )
    return _Measured(app, metrics)


class OpsServer:
    """Serves the application until stopped, without signal handlers and without a thread."""

    def __init__(self, app: ASGIApp) -> None:
        """Prepare; nothing is bound before `start`."""
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # else a header of the client's would name the client
            lifespan="off",
            loop="none",
            http="httptools",
            ws="none",
            limit_concurrency=_CONNECTIONS_MAX,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=_DRAIN_S,
        )
        self._server: Final = _Server(config)
        self._socket: socket.socket | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port in use; raises RuntimeError before `start`."""
        if self._socket is None:
            raise RuntimeError("not started")
        return int(self._socket.getsockname()[1])

    async def start(self, host: str, port: int) -> None:
        """Bind and serve. Raises OSError whose text names the address and the setting."""
        self._socket = _bind(host, port)
        self._serving = asyncio.get_running_loop().create_task(self._server.serve([self._socket]))
        started = asyncio.ensure_future(self._server.ready.wait())
        await asyncio.wait([self._serving, started], return_when=asyncio.FIRST_COMPLETED)
        if not self._server.ready.is_set():
            started.cancel()
            await self._serving  # raises what kept it from starting
            raise RuntimeError("the operations server ended at once")

    async def stop(self) -> None:
        """Stop accepting, finish what is being answered (at most 5 s) and close."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


class _Server(uvicorn.Server):
    """Uvicorn's server with a signal for "listening" and without its signal handlers: draining is the engine's."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready: Final = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _Measured:
    """Counts every request under its route template and adds the security headers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on. The count is made even when the application fails."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        started = time.perf_counter()

        async def send_measured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_SECURITY_HEADERS]
            await send(message)

        try:
            await self._app(scope, receive, send_measured)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = scope["path"] if scope["path"] in _ROUTES else "other"
            self._metrics.count_http(method, route, status, time.perf_counter() - started)


def _json(content: Mapping[str, object], status: int, *, bearer: bool = False) -> Response:
    headers = {"www-authenticate": "Bearer"} if bearer else None
    return Response(orjson.dumps(content, default=str), status, headers, "application/json")


def _failed(_request: Request, _error: Exception) -> Response:
    """Answer without a word about the cause: the log has it."""
    return PlainTextResponse("internal error\n", 500)


def _is_this_machine(request: Request) -> bool:
    if request.client is None or any(name in request.headers for name in _FORWARDING):
        return False
    host = request.url.hostname or ""
    return _is_loopback(request.client.host) and (host == "localhost" or _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _bind(host: str, port: int) -> socket.socket:
    """Bind here rather than in uvicorn, which would end the process on an error."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind(address)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno, f"cannot listen for operations on {host}:{port}: {reason} (LONGWAVE_HTTP_ADDRESS)"
        ) from error
    return sock
