"""The parts of the comparison: sink, load generators, counts of lost and doubled, process trees, configurations."""

import asyncio
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.benchmarks.callers import run_loop
from loadtest.benchmarks.children import BenchmarkError, child, clean_environment, module_command, start, stop
from loadtest.benchmarks.echo_server import METHOD
from loadtest.benchmarks.figures import Figure, Sheet
from loadtest.benchmarks.submissions import recipient, text
from loadtest.peers import __main__ as program
from loadtest.peers import candidates, http_load, kannel, unary_load
from loadtest.peers.home_made import HomeMade
from loadtest.peers.kannel import Kannel
from loadtest.peers.loaded import Loaded, fate_of
from loadtest.peers.longwave_engine import make_store
from loadtest.peers.measure import ACKNOWLEDGED, AGAIN, DELIVERED, LISTED, NEVER, UNCERTAIN, measure
from loadtest.peers.plan import Plan
from loadtest.peers.process_tree import kill_trees, members, ticks, tree, tree_bytes, tree_cpu_s
from loadtest.peers.sink import MESSAGES_MAX
from loadtest.peers.sink_process import SinkProcess, sink
from loadtest.peers.system import wait_listening
from loadtest.peers.table import side_by_side
from loadtest.ports import free_ports

# A child that uses a processor for a moment and ends, then one that stays.
PARENT = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.3: pass"], check=True)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def taking(tmp_path: Path) -> Iterator[SinkProcess]:
    with sink(tmp_path) as running:
        yield running


def sent(taking: SinkProcess, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", taking.port, timeout=10)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def sendsms(tmp_path: Path, place: int) -> str:
    """The target of a request as the load generator makes it for Kannel."""
    (tmp_path / "kannel").mkdir()
    made = Kannel(tmp_path / "kannel", "http://127.0.0.1/kannel", in_flight=1, is_stored=False)
    return made.request(place).split(b" ")[1].decode()


def test_the_sink_knows_a_message_in_a_body_and_in_a_query(taking: SinkProcess, tmp_path: Path) -> None:
    body = json.dumps({"to": recipient(7), "text": text(7)}).encode()
    status, answer = sent(taking, "POST", "/v2/messages", body)
    assert (status, json.loads(answer)["data"]["id"][-3:]) == (200, "007")
    query = sendsms(tmp_path, 8).partition("?")[2]
    assert sent(taking, "GET", f"/kannel?{query}") == (202, b"0: Accepted for delivery")
    assert sent(taking, "GET", f"/kannel?{query.replace('+', '%20')}")[0] == 202
    assert sent(taking, "POST", "/plain", body) == (200, b"OK")
    counts = taking.counts()
    assert (counts.messages, counts.again) == (2, 2)
    assert 0 <= time.monotonic() - counts.last_s < 60
    assert {place: copies for place, copies in enumerate(taking.seen()) if copies} == {7: 2, 8: 2}
    taking.reset()
    assert (taking.counts().messages, any(taking.seen())) == (0, False)


def test_the_sink_counts_nothing_else(taking: SinkProcess) -> None:
    far = text(0).replace("00000000", f"{MESSAGES_MAX:08d}")
    for method, path, body in (
        ("GET", "/v2/messages/00000000-0000-4000-8000-000000000007", None),
        ("POST", "/v2/messages", b"{}"),
        ("POST", "/elsewhere", text(1).encode()),
        ("POST", "/plain", far.encode()),
        ("GET", "/control/nothing", None),
    ):
        assert sent(taking, method, path, body)[0] == 404
    assert taking.counts().messages == 0


def test_the_sink_answers_late_or_not_at_all(taking: SinkProcess) -> None:
    taking.delay(50)
    began = time.monotonic()
    assert sent(taking, "POST", "/plain", text(1).encode())[0] == 200
    assert time.monotonic() - began >= 0.05
    taking.reset()
    taking.hold(on=True)

    async def while_held() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", taking.port)
        body = text(2).encode()
        writer.write(b"POST /plain HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await asyncio.to_thread(taking.wait_messages, 1, time.monotonic() + 30)
        waiting = asyncio.ensure_future(reader.readline())
        # It is answered behind the held one, on another connection.
        assert (await asyncio.to_thread(taking.counts)).messages == 1
        assert not waiting.done()
        await asyncio.to_thread(taking.hold, on=False)
        assert await waiting == b"HTTP/1.1 200 OK\r\n"
        writer.close()

    run_loop(while_held())
    with pytest.raises(BenchmarkError, match="the sink has 1 of 2 messages"):
        taking.wait_messages(2, time.monotonic())
    taking.wait_quiet(0.05, time.monotonic() + 30)


def test_an_http_load_sends_each_request_once(taking: SinkProcess) -> None:
    bodies = [(place, text(place).encode()) for place in range(200)]
    requests = [
        (place, b"POST /plain HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)) for place, body in bodies
    ]
    loaded = run_loop(
        http_load.load("127.0.0.1", taking.port, requests, in_flight=7, accepted=lambda status, _: status == 200)
    )
    loaded.check_all(200)
    assert sorted(loaded.acknowledged) == list(range(200))
    assert (taking.counts().messages, taking.counts().again) == (200, 0)
    assert 0 < max(loaded.latencies_s) <= loaded.ended_s - loaded.began_s
    refused = run_loop(
        http_load.load("127.0.0.1", taking.port, requests[:5], in_flight=2, accepted=lambda _, body: body == b"other")
    )
    assert (refused.acknowledged, refused.refused) == ([], ["200 OK"] * 5)
    with pytest.raises(BenchmarkError, match="0 of 5 messages were acknowledged, 5 calls refused, the first: 200 OK"):
        refused.check_all(5)


def test_a_connection_that_ends_leaves_its_call_unanswered() -> None:
    async def cut_off() -> Loaded:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            requests = [(place, b"GET / HTTP/1.1\r\n\r\n") for place in range(10)]
            return await http_load.load("127.0.0.1", port, requests, in_flight=2, accepted=lambda *_: True)

    loaded = run_loop(cut_off())
    assert (sorted(loaded.acknowledged), loaded.unanswered) == ([0, 1], 2)
    with pytest.raises(BenchmarkError, match="2 of 10 messages were acknowledged, 0 calls refused; 2 unanswered"):
        loaded.check_all(10)


def test_what_is_lost_and_what_is_doubled() -> None:
    seen = bytes([1, 0, 2, 1, 0, 3, 1])
    # 4 was not acknowledged, so nobody lost it; 5 was not either, but came more than once all the same.
    fate = fate_of([0, 1, 2, 3], seen)
    assert (fate.acknowledged, fate.never, fate.several_times) == (4, [1], 2)
    with pytest.raises(ValueError, match="acknowledged more than once"):
        fate_of([1, 1], seen)


def test_the_members_of_a_tree() -> None:
    parents = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1, 21: 20}
    assert members([10], parents) == {10, 11, 12}
    assert members([10, 20], parents) == {10, 11, 12, 20, 21}


def test_a_stat_with_spaces_in_the_name() -> None:
    # Times 14 to 17 are 5, 6, 7 and 8 ticks.
    stat = "42 (a (b) c) S 1 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 1 0"
    assert ticks(stat.rpartition(")")[2].split()) == 26


def test_a_tree_counts_children_and_those_that_ended(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=tmp_path)
    try:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert set(tree([process.pid])) == {process.pid, child}
        # The kernel counts whole hundredths, user and system apart.
        assert tree_cpu_s([process.pid]) >= 0.25
        assert tree_bytes([process.pid]) > tree_bytes([child]) > 0
        kill_trees([process.pid])
        process.wait(30)
        until = time.monotonic() + 30
        while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text():
            assert time.monotonic() < until
            time.sleep(0.01)
        with pytest.raises(ProcessLookupError, match="these are gone"):
            tree([process.pid])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


@pytest.mark.parametrize("is_stored", [False, True])
def test_the_configuration_of_kannel(tmp_path: Path, is_stored: bool) -> None:  # noqa: FBT001 - a case
    Kannel(tmp_path, "http://127.0.0.1:1/kannel", in_flight=1, is_stored=is_stored)
    written = (tmp_path / "kannel.conf").read_text()
    groups = [dict(line.split(" = ") for line in group.splitlines()) for group in written.split("\n\n")]
    assert [group["group"] for group in groups] == ["core", "smsc", "smsbox", "sendsms-user"]
    core, smsc, smsbox, _ = groups
    assert (core.get("store-type"), "store-location" in core) == (("spool", True) if is_stored else (None, False))
    # Nothing is logged for each message, and nothing listens beyond loopback.
    assert "access-log" not in written
    assert (core["log-level"], smsbox["log-level"]) == ("4", "4")
    assert {core["admin-interface"], core["smsbox-interface"], smsbox["sendsms-interface"]} == {"127.0.0.1"}
    assert smsc["send-url"] == "http://127.0.0.1:1/kannel"
    ports = [core["admin-port"], core["smsbox-port"], smsc["port"], smsbox["sendsms-port"]]
    assert len(set(ports)) == 4
    assert smsbox["bearerbox-port"] == core["smsbox-port"]


def test_the_version_of_kannel() -> None:
    assert kannel.version_in("Kannel bearerbox version `1.4.5'.\nCompiler `12.2.0'.\n") == "1.4.5"
    assert kannel.version_in("") == "unknown"


@pytest.mark.parametrize(
    ("judge", "status", "body", "expected"),
    [
        (Kannel.is_accepted, 202, b"0: Accepted for delivery", True),
        (Kannel.is_accepted, 202, b"3: Queued for later delivery", False),
        (Kannel.is_accepted, 503, b"Temporal failure, try again later.", False),
        (HomeMade.is_accepted, 202, b'{"id":7}', True),
        (HomeMade.is_accepted, 500, b"Internal Server Error", False),
    ],
)
def test_what_counts_as_accepted(judge: object, status: int, body: bytes, expected: bool) -> None:  # noqa: FBT001
    assert callable(judge)
    assert judge(None, status, body) is expected


def test_a_part_that_does_not_start_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start([sys.executable, "-c", "raise SystemExit('no such setting')"], clean_environment({}), log)
    try:
        with pytest.raises(BenchmarkError, match="a process ended at its start\nno such setting"):
            wait_listening(process, free_ports(1)[0], log)
    finally:
        stop(process)


def test_both_tables_name_every_system_that_was_measured() -> None:
    figures = [
        Figure("Kannel, no store: accepted", "messages/s", samples=[10_000, 12_000, 11_000]),
        Figure(f"Kannel, no store: {NEVER}", "messages", samples=[3, 0, 1]),
        Figure(f"{candidates.URGENT}: {AGAIN}", "messages", samples=[2, 2, 9]),
    ]
    lines = side_by_side(figures, candidates.NAMES)
    assert lines[2] == "| Kannel, no store | 11,000 | - | - | - | - | - |"
    assert lines[3] == ""
    assert lines[-1] == "| Kannel, no store | - | 3 / 0 / 1 | - | - | - |"
    assert f"| {candidates.URGENT} | - | - | - | 2 / 2 / 9 | - |" in lines


def test_the_command_says_how_to_measure_again() -> None:
    assert program.command(Plan(), candidates.NAMES, quick=False) == "python -m loadtest.peers --runs 3"
    again = program.command(Plan.quick(), [candidates.KANNEL], quick=True)
    assert again == 'python -m loadtest.peers --quick --runs 1 --only "Kannel, no store"'


def test_longwave_is_measured_and_loses_nothing(taking: SinkProcess, tmp_path: Path) -> None:
    """The peers themselves are not there in a run of the tests; the way of measuring is the same for all."""
    made, sheet, plan = tmp_path / "made", Sheet(), Plan.quick()
    make_store(made)
    names = (candidates.BATCHES, candidates.SINGLES)
    for candidate in candidates.candidates(plan, taking, made):
        if candidate.name in names:
            measure(candidate, plan, tmp_path, taking, sheet)
    by_name = {figure.name: figure.median for figure in sheet.figures()}
    for name in names:
        assert by_name[f"{name}: {DELIVERED}"] > 0
        assert by_name[f"{name}: {ACKNOWLEDGED}"] > 0
        # What may have left is known to be uncertain, and is not sent again.
        assert by_name[f"{name}: {NEVER}"] == by_name[f"{name}: {UNCERTAIN}"] <= by_name[f"{name}: {LISTED}"]
        assert by_name[f"{name}: {AGAIN}"] == 0
    assert not list(tmp_path.glob("peer-*"))


def test_bare_calls_reach_a_grpc_server_and_come_back(tmp_path: Path) -> None:
    requests = [(place, b"%d" % place * 100) for place in range(300)]
    answers: list[bytes] = []

    def keep(answer: bytes) -> bool:
        answers.append(answer)
        return answer != b"7" * 100

    command = module_command("loadtest.benchmarks.echo_server")
    with child(command, clean_environment({}), tmp_path / "echo.log") as (_, line):
        # A header longer than one byte can say the length of.
        metadata = (("authorization", "Bearer " + "x" * 300),)
        called = unary_load.load(
            "127.0.0.1", int(line), METHOD, requests, in_flight=20, metadata=metadata, is_accepted=keep
        )
        loaded = run_loop(called)
        nowhere = unary_load.load(
            "127.0.0.1", int(line), "/no/such", requests[:3], in_flight=2, metadata=(), is_accepted=keep
        )
        failed = run_loop(nowhere)
    assert sorted(answers) == sorted(request for _, request in requests)
    assert sorted(loaded.acknowledged) == [place for place in range(300) if place != 7]
    assert (len(loaded.refused), loaded.unanswered, len(loaded.latencies_s)) == (1, 0, 300)
    assert (failed.acknowledged, len(failed.refused)) == ([], 3)
    large = unary_load.load("127.0.0.1", 1, METHOD, [(0, bytes(20_000))], in_flight=1, metadata=(), is_accepted=keep)
    with pytest.raises(ValueError, match="more than 16000 bytes"):
        run_loop(large)


@pytest.mark.parametrize("length", [0, 126, 127, 254, 255, 20_000])
def test_a_literal_says_its_length(length: int) -> None:
    written = unary_load.literal("x" * length)
    value, at = written[0] & 127, 1
    if value == 127:
        shift = 0
        while True:
            value += (written[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if not written[at - 1] & 128:
                break
    assert (value, written[at:]) == (length, b"x" * length)
