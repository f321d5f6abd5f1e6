"""A run with several nodes over one MariaDB: one simulated carrier, one sender that calls any node, nodes that fall.

It checks nothing by itself: what is left behind goes to `tests/corridor/crash_checker.py`, as for one node. All nodes
write one history, which tells who owned which shards when.

Invariants: as of `crash_harness.py`; leases last 3 s, so that a run sees many of them run out.
"""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import grpc
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loadtest.carrier.signing import key_seed_from
from loadtest.ports import free_ports
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import messaging_pb2_grpc
from tests.corridor.crash_client import AGAIN, Handsets, Sender, now_us, plan
from tests.corridor.crash_harness import HOST, SERVE, WAIT_S, CrashRun, Options, Summary
from tests.corridor.crash_relay import HEADERS, PAUSE_S, Relay

LEASE_S: Final = 3.0
LINES_SHOWN: Final = 40
TIMES: Final = {
    "LEASE_S": str(LEASE_S),
    "HEARTBEAT_S": "0.5",
    "SEND_S": "1",
    "CONNECT_S": "0.5",
    "MARGIN_S": "0.5",
}
# A lease, the look for it, and what a process of Python takes to recover on a busy machine.
TAKE_OVER_S: Final = 3 * LEASE_S
SHARDS: Final = 64
_SHARDS: Final = re.compile(r"^longwave_shards (\S+)$", re.MULTILINE)
ROUND_ROBIN: Final = '{"loadBalancingConfig": [{"round_robin": {}}]}'


@dataclass(slots=True)
class Node:
    """One `longwave serve`, in as many lives as it takes."""

    index: int
    ports: list[int]
    """Of gRPC, operations and webhooks."""
    process: asyncio.subprocess.Process | None = None
    frozen: bool = False
    command: tuple[str, ...] = SERVE
    """Its next life's."""
    roles: str = ""
    """All, if none is named."""

    @property
    def alive(self) -> bool:
        """It runs, and not frozen."""
        return self.process is not None and self.process.returncode is None and not self.frozen


class ToOthers(Relay):
    """Webhooks go to all nodes in turn, whoever owns their messages; each try to the next."""

    def __init__(self, session: aiohttp.ClientSession, run: "ClusterRun") -> None:
        """Ask `run` who is there."""
        super().__init__(session, "")
        self._run = run
        self._turn = 0

    async def _forward(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name: request.headers[name] for name in HEADERS if name in request.headers}
        while True:
            nodes = [node for node in self._run.nodes if node.alive]
            if nodes:
                self._turn += 1
                url = f"http://{HOST}:{nodes[self._turn % len(nodes)].ports[2]}{request.raw_path}"
                try:
                    timeout = aiohttp.ClientTimeout(total=2)
                    async with self._session.post(url, data=body, headers=headers, timeout=timeout) as answer:
                        if answer.status != web.HTTPServiceUnavailable.status_code:
                            return web.Response(status=answer.status)
                except (aiohttp.ClientError, TimeoutError):
                    pass
            await asyncio.sleep(PAUSE_S)


class AnyNode(Sender):
    """Calls the nodes in turn."""

    async def connect(self) -> None:
        """Begin with a new channel to all of them."""
        await self.disconnect()
        self._channel = grpc.aio.insecure_channel(self._address, options=[("grpc.service_config", ROUND_ROBIN)])


class ClusterRun(CrashRun):
    """See the head of this file. Made by `cluster_run`."""

    def __init__(self, folder: Path, options: Options, nodes: int, **settings: str) -> None:
        """Start nothing; `settings` lie over those of every node."""
        super().__init__(folder, options, SERVE)
        self.nodes = [Node(index, free_ports(3)) for index in range(nodes)]
        self.owner: Node | None = None
        """Of most shards, when last looked."""
        self.takeovers: list[float] = []
        """Seconds from each fall of an owner until others had all its shards."""
        self.store_urls: list[str] = []
        """Each node's own way to the store, where they have one."""
        self._settings = settings

    async def open(self) -> None:
        """Make the store, start the carrier; no node yet."""
        await super().open()
        await self._relay.stop()
        self._relay = ToOthers(self.session, self)
        self._relay_url = await self._relay.start(HOST)
        options, key = self.options, Ed25519PrivateKey.from_private_bytes(key_seed_from(self.options.seed))
        address = "ipv4:" + ",".join(f"{HOST}:{node.ports[0]}" for node in self.nodes)
        items = plan(options.seed, options.messages, options.recipients, options.texts)
        self.sender = AnyNode(self.log, address, self.token, items, options.seed, options.batch)
        self.handsets = Handsets(self.log, self.session, f"{self._relay_url}/webhooks/telnyx", key)

    async def close(self) -> None:
        """End every process, whatever happened."""
        for node in self.nodes:
            if node.process is not None and node.process.returncode is None:
                node.process.kill()
                await node.process.wait()
        await super().close()

    # Nodes.

    def _environment(self, failpoint: str) -> dict[str, str]:
        environment = super()._environment(failpoint)
        del environment["LONGWAVE_NODE"]
        return environment | {f"LONGWAVE_{name}": value for name, value in (TIMES | self._settings).items()}

    async def start_node(self, node: Node) -> None:
        """Begin a life of a node; returns when it is ready."""
        environment = self._environment("")
        for name, port in zip(("GRPC", "HTTP", "WEBHOOK"), node.ports, strict=True):
            environment[f"LONGWAVE_{name}_ADDRESS"] = f"{HOST}:{port}"
        if node.roles:
            environment["LONGWAVE_ROLES"] = node.roles
        if self.store_urls:
            environment["LONGWAVE_STORE_URL"] = self.store_urls[node.index]
        with (self.folder / f"node-{node.index}.log").open("ab") as log:
            node.process = await asyncio.create_subprocess_exec(
                *node.command, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        node.frozen = False
        self.lives += 1
        async with asyncio.timeout(WAIT_S):
            while not await self.is_ready(node):
                assert node.alive, f"node {node.index} ended: see node-{node.index}.log"
                await asyncio.sleep(PAUSE_S)

    async def start(self, failpoint: str = "") -> bool:
        """Start those that do not run, one after the other."""
        assert not failpoint
        for node in self.nodes:
            if not node.alive and not node.frozen:
                await self.start_node(node)
                await self.until_owner()
        await self.sender.connect()
        return True

    async def _get(self, node: Node, path: str) -> tuple[int, str]:
        try:
            timeout = aiohttp.ClientTimeout(total=1)
            async with self.session.get(f"http://{HOST}:{node.ports[1]}/{path}", timeout=timeout) as response:
                return response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError):
            return 0, ""

    async def is_ready(self, node: Node) -> bool:
        """Whether it takes work, by its own word."""
        return (await self._get(node, "ready"))[0] == 200

    async def shards_of(self, node: Node) -> int:
        """How many shards a node owns, by its own word; 0 when it does not answer."""
        found = _SHARDS.search((await self._get(node, "metrics"))[1])
        return int(float(found[1])) if found else 0

    async def until_owner(self, but: Node | None = None) -> Node:
        """Wait until every shard is owned, and none by this node; the owner of most."""
        began_s = asyncio.get_running_loop().time()
        async with asyncio.timeout(TAKE_OVER_S * 3):
            while True:
                alive = [node for node in self.nodes if node is not but and node.alive]
                shards = [await self.shards_of(node) for node in alive]
                if sum(shards) == SHARDS:
                    if but is not None:
                        self.takeovers.append(asyncio.get_running_loop().time() - began_s)
                    self.owner = alive[shards.index(max(shards))]
                    return self.owner
                await asyncio.sleep(PAUSE_S)

    async def until_spread(self) -> None:
        """Wait until each node that runs owns its share."""
        async with asyncio.timeout(TAKE_OVER_S * 3):
            while True:
                alive = [node for node in self.nodes if node.alive]
                shards = [await self.shards_of(node) for node in alive]
                if sum(shards) == SHARDS and max(shards) <= -(-SHARDS // len(alive)):
                    return
                await asyncio.sleep(PAUSE_S)

    def _owning(self) -> Node:
        assert self.owner is not None
        return self.owner

    async def end_node(self, node: Node) -> None:
        """SIGKILL, now."""
        self._kills += 1
        assert node.process is not None
        node.process.kill()
        self.log.note("ended", exit_code=await node.process.wait())

    async def drain_node(self, node: Node) -> None:
        """SIGTERM; it must end in order."""
        assert node.process is not None
        from_us = now_us()
        node.process.terminate()
        async with asyncio.timeout(WAIT_S):
            code = await node.process.wait()
        self.log.note("drained", from_us=from_us, to_us=now_us(), exit_code=code, faultless=not self.options.rough)

    async def freeze_owner(self, seconds: float) -> Node:
        """SIGSTOP of the owner until another one owns and these seconds are over, then SIGCONT; its end is awaited."""
        node = self._owning()
        assert node.process is not None
        from_us = now_us()
        node.frozen = True
        node.process.send_signal(signal.SIGSTOP)
        async with asyncio.TaskGroup() as both:
            both.create_task(asyncio.sleep(seconds))
            both.create_task(self.until_owner(but=node))
        node.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(WAIT_S):
            code = await node.process.wait()
        self.log.note("frozen", from_us=from_us, to_us=now_us())
        assert code == 70, f"a node that lost its leases ended with {code}"
        node.frozen = False
        return node

    async def watch(self, node: Node, seen: dict[str, list[int]]) -> None:
        """Follow the tenant's events on a node, from wherever it was cut off; seqs by message. Ends when cancelled."""
        cursor = ""
        metadata = (("authorization", f"Bearer {self.token}"),)
        while True:
            channel = grpc.aio.insecure_channel(f"{HOST}:{node.ports[0]}")
            stub = messaging_pb2_grpc.MessagingServiceStub(channel)
            try:
                async for response in stub.WatchEvents(pb.WatchEventsRequest(cursor=cursor), metadata=metadata):
                    for event in response.events:
                        if event.kind == pb.Event.KIND_MESSAGE:
                            seen.setdefault(event.message, []).append(event.seq)
                    cursor = response.cursor
            except grpc.aio.AioRpcError as error:
                if error.code() not in AGAIN:
                    raise
            finally:
                await channel.close()
            await asyncio.sleep(PAUSE_S)

    # What the parts of `CrashRun` ask.

    async def _ends_within(self, wait_s: float) -> bool:
        await asyncio.sleep(wait_s)
        return False

    def show_logs(self) -> None:
        """What the nodes said last, and what clients saw, for whoever reads why a test failed."""
        for path in sorted([*self.folder.glob("node-*.log"), self.folder / "client.jsonl"]):
            lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
            print(f"{path.name}, the last of {len(lines)} lines:", *lines[-LINES_SHOWN:], sep="\n")  # noqa: T201

    async def work_until(self, accepted: int) -> None:
        """Hand in until so many are accepted."""
        await self.work(until_accepted=accepted)

    async def finish(self, *, stop_feeding: bool = False) -> Summary:
        """As of one node."""
        self._engine = self._owning().process
        return await super().finish(stop_feeding=stop_feeding)

    async def drain(self) -> int:
        """SIGTERM to all, one after the other, the owner last."""
        for node in sorted(self.nodes, key=lambda node: node is self.owner):
            if node.alive:
                await self.drain_node(node)
        return 0


@asynccontextmanager
async def cluster_run(folder: Path, options: Options, nodes: int = 3, **settings: str) -> AsyncIterator[ClusterRun]:
    """A run over an empty database; nothing of it runs afterwards."""
    run = ClusterRun(folder, options, nodes, **settings)
    await run.open()
    try:
        yield run
    except BaseException:  # also of one that took too long: its folder does not outlive the next runs
        run.show_logs()
        raise
    finally:
        run._engine = None
        await run.close()
