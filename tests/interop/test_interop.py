"""gRPC's clients for Go, Java and Node, grpcurl and ghz against both edges, in plaintext and over TLS: all alike.

`make interop` runs it; it needs Go, Java and Node, which nothing else here does.
"""

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.interop.clients import CLIENTS, TOOLS, WAIT_S, Outcome, outcome, plan, said
from tests.interop.script import DRAIN, SUBMIT, Call, one, pings, script
from tests.interop.serving import EDGES, Served, descriptors, served

Serve = Callable[[str, bool], Served]
Ask = Callable[[str, str, bool], tuple[dict[str, Outcome], dict[str, float]]]
TLS = pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "tls"])
CLIENT = pytest.mark.parametrize("client", sorted(CLIENTS))
EDGE = pytest.mark.parametrize("edge", EDGES)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A server of each kind for the whole module."""
    folder = tmp_path_factory.mktemp("served")
    with ExitStack() as stack:

        @cache
        def start(edge: str, tls: bool) -> Served:  # noqa: FBT001 - a test's parameter
            return stack.enter_context(served(folder, edge, tls=tls))

        yield start


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """What came of the script and what the server counted, once for each client and kind of server.

    Each has a server of its own: the wrong keys of several would shut them out.
    """

    @cache
    def asked(client: str, edge: str, tls: bool) -> tuple[dict[str, Outcome], dict[str, float]]:  # noqa: FBT001
        folder = tmp_path_factory.mktemp(f"{client}-{edge}")
        with served(folder, edge, tls=tls) as server:
            return said(client, folder, server, script(client)), server.metrics()

    return asked


def compared(call: Call, found: Outcome) -> tuple[Any, ...]:
    """What has to be the same over both edges."""
    answers = found.answers
    if call.name == "watch":  # how many events an answer holds is a matter of time
        answers = sorted(json.dumps(event) for answer in answers for event in answer.get("events", ()))
    words = () if call.own_words else (found.details, found.rich, found.trailers)
    return (found.code, answers, *words)


@TLS
@CLIENT
@pytest.mark.parametrize("name", [call.name for call in script("")])
def test_a_call_ends_alike_over_both_edges(ask: Ask, client: str, tls: bool, name: str) -> None:  # noqa: FBT001
    [call] = [call for call in script(client) if call.name == name]
    over = {edge: ask(client, edge, tls)[0][call.name] for edge in EDGES}
    assert over["native"].code is call.code
    assert over["grpcio"].code is (call.over_grpcio or call.code)
    if call.over_grpcio is None:
        assert compared(call, over["native"]) == compared(call, over["grpcio"])


@TLS
@CLIENT
def test_both_edges_count_the_same_calls(ask: Ask, client: str, tls: bool) -> None:  # noqa: FBT001
    """By method and code, as operators see them.

    A stream that its client gave up is OK over grpcio, which reads that as its requests' end, and CANCELLED over the
    native edge. A request that is too long when unpacked is never seen behind grpcio.
    """
    counted = []
    for edge in EDGES:
        _, metrics = ask(client, edge, tls)
        found = Counter[str]()
        for name, many in metrics.items():
            if name.startswith("longwave_grpc_requests_total") and "RESOURCE_EXHAUSTED" not in name:
                found[name.replace("CANCELLED", "OK")] += int(many)
        counted.append(found)
        assert metrics["longwave_event_log_subscribers"] == 0
    assert counted[0] == counted[1]


def test_clients_that_keep_alive_as_they_may_are_not_ended_and_others_are_told(
    serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every 30 s, every 10 s (the least that Go's takes), three times a second; what is ended is made anew."""
    servers = {edge: serve(edge, False) for edge in EDGES}  # here: migrations of two stores do not run side by side
    kinds = [("go", 30_000, 65_000), ("go", 10_000, 45_000), ("node", 30_000, 65_000), ("node", 300, 3000)]

    def kept(client: str, edge: str, ping_ms: int, hold_ms: int) -> dict[str, Outcome]:
        folder = tmp_path_factory.mktemp("pings")
        return said(client, folder, servers[edge], pings(ping_ms, hold_ms))

    with ThreadPoolExecutor(8) as pool:
        going = [pool.submit(kept, client, edge, *ms) for client, *ms in kinds for edge in EDGES]
        for each in going:
            assert each.result()["kept alive"].code is grpc.StatusCode.OK


@TLS
@EDGE
@CLIENT
def test_what_is_in_flight_is_answered_when_the_server_goes_and_the_client_finds_the_next_one(
    tmp_path: Path,
    client: str,
    edge: str,
    tls: bool,  # noqa: FBT001
) -> None:
    with served(tmp_path, edge, tls=tls) as server:
        command = [*CLIENTS[client], str(plan(tmp_path, server, drain=DRAIN))]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "armed\n"
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            did = json.loads(process.stdout.readline())
            assert server.ended() == 0
            stored = server.stored()
            server.start()
            process.stdin.write("again\n")
            process.stdin.flush()
            again = outcome(json.loads(process.stdout.readline()))
        watch, stream, *workers = map(outcome, did["ended"])
        # Over grpcio a call that comes as it stops may end as CANCELLED, stored or not: its caller tries again.
        refused = {grpc.StatusCode.UNAVAILABLE, *([grpc.StatusCode.CANCELLED] if edge == "grpcio" else [])}
        assert {worker.code for worker in workers} <= refused
        assert watch.code is grpc.StatusCode.UNAVAILABLE
        assert stream.code is grpc.StatusCode.UNAVAILABLE
        assert again.code is grpc.StatusCode.OK
        # Whoever was told has it; over the native edge nothing was taken up whose caller was not told, too. Node's
        # client drops answers that it has not handed out when a stream ends with an error.
        told = did["accepted"] + sum(len(answer.get("results", ())) for answer in stream.answers)
        assert stored >= told
        assert stored == told or edge == "grpcio" or client == "node"


# ------------------------------------------------------------------------------------------------- grpcurl and ghz


def by_grpcurl(server: Served, *arguments: str, key: str | None = None) -> tuple[int, str]:
    """Its exit code and what it says; it asks by reflection."""
    trust = ["-plaintext"] if server.ca is None else ["-cacert", str(server.ca)]
    show = ["-H", f"authorization: Bearer {server.key if key is None else key}"]
    command = [str(TOOLS / "bin" / "grpcurl"), *trust, *show, "-format-error", "-max-time", "20", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    return done.returncode, done.stdout + done.stderr


@TLS
def test_grpcurl_lists_describes_and_calls_by_reflection(serve: Serve, tls: bool) -> None:  # noqa: FBT001
    found = []
    for edge in EDGES:
        server = serve(edge, tls)
        at = server.target
        listed = by_grpcurl(server, at, "list")
        described = by_grpcurl(server, at, "describe", "longwave.v1.MessagingService")
        refused = by_grpcurl(server, "-d", json.dumps(one(recipient="+1")), at, SUBMIT)
        keyless = by_grpcurl(server, "-d", json.dumps(one()), at, SUBMIT, key="lw_nobody")
        unknown = by_grpcurl(server, at, "longwave.v1.MessagingService/Nothing")
        code, said = by_grpcurl(server, "-d", json.dumps(one()), at, SUBMIT)
        accepted = (code, json.loads(said)["result"]["verdict"])
        found.append((listed, described, refused, keyless, unknown, accepted))
    assert found[0] == found[1]
    (_, names), (_, methods), (_, refusal), *_, accepted = found[1]
    assert "longwave.v1.MessagingService" in names.splitlines()
    assert "rpc StreamMessages" in methods
    assert json.loads(refusal)["code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert accepted == (0, "VERDICT_ACCEPTED")


@TLS
@EDGE
def test_ghz_gets_every_call_answered(tmp_path: Path, serve: Serve, edge: str, tls: bool) -> None:  # noqa: FBT001
    """It asks reflection for a method, which grpcio's finds by its service alone; so it is given descriptors."""
    server = serve(edge, tls)
    described = tmp_path / "descriptors"
    described.write_bytes(descriptors())
    trust = ["--insecure"] if server.ca is None else ["--cacert", str(server.ca)]
    command = [
        str(TOOLS / "bin" / "ghz"), *trust, "--protoset", str(described), "--call", SUBMIT,
        "--data", json.dumps(one()), "--total", "3000", "--concurrency", "40", "--connections", "4", "--format", "json",
        "--metadata", json.dumps({"authorization": f"Bearer {server.key}"}), server.target,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["statusCodeDistribution"] == {"OK": 3000}
