"""`longwave send`: one message and files, through a real gRPC connection to a fake engine."""

import gzip
import json
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from longwave.v1 import messaging_pb2 as m
from longwave.v1 import verdict_pb2
from server.cli import send_run
from tests.cli.conftest import Run, command, process_environment, run_process
from tests.cli.fake_engine import API_KEY, FakeEngine

EXAMPLES = Path(__file__).parents[2] / "examples"


def jsonl(path: Path, count: int, **fields: str) -> Path:
    path.write_text("".join(json.dumps({"text": f"text {i}", **fields}) + "\n" for i in range(count)), encoding="utf-8")
    return path


def test_one_message(engine: FakeEngine, run: Run) -> None:
    ran = run(
        "send", "--campaign", "otp", "--to", "+12025550100", "--text", "hi", "--class", "critical",
        "--label", "a=b", "--validity", "5m", "--reference", "r", "--request-id", "mine", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.json == {
        "verdict": "ACCEPTED", "message": "messages/m0000001", "request_id": "mine", "segments": 1, "encoding": "GSM7",
    }  # fmt: skip
    (arrived,) = engine.arrivals
    assert (arrived.campaign, arrived.text, arrived.message_class) == ("campaigns/otp", "hi", m.MESSAGE_CLASS_CRITICAL)
    assert (dict(arrived.labels), arrived.validity.ToSeconds(), arrived.client_reference) == ({"a": "b"}, 300, "r")


def test_one_message_seen_to_its_end(engine: FakeEngine, run: Run) -> None:
    engine.ends["hi"] = m.MESSAGE_STATE_UNDELIVERED
    ran = run("send", "--campaign", "otp", "--to", "+12025550100", "--text", "hi", "--wait")
    assert ran.code == 0, ran.err
    assert "accepted messages/m0000001: 1 segment, GSM7" in ran.out
    assert "UNDELIVERED RECEIPT" in ran.out


def test_one_message_refused(engine: FakeEngine, run: Run) -> None:
    engine.refusals["hi"] = verdict_pb2.VERDICT_TEXT_TOO_LONG
    ran = run("send", "--campaign", "otp", "--to", "+12025550100", "--text", "hi")
    assert ran.code == 1
    assert "TEXT_TOO_LONG" in ran.err
    assert not ran.out


def test_a_file_is_sent_and_seen_to_its_end(engine: FakeEngine, run: Run, tmp_path: Path) -> None:
    engine.batch_messages_max = 100  # the run keeps to it: the fake asserts that
    file = jsonl(tmp_path / "texts.jsonl", 1234)
    engine.ends["text 7"] = m.MESSAGE_STATE_FAILED
    ran = run("send", str(file), "--campaign", "notices", "--recipients", "1000", "--json")
    assert ran.code == 0, ran.err
    found = ran.json
    assert (found["lines"], found["accepted"], found["segments"]) == (1234, 1234, 1234)
    assert found["final"] == {"DELIVERED": 1233, "FAILED RECEIPT": 1}
    assert (found["delivered"], found["not_final"]) == (1233, 0)
    assert found["accept_p50_s"] > 0
    assert found["final_p99_s"] > 0
    assert len({arrived.recipient for arrived in engine.arrivals}) == 1000
    assert {arrived.campaign for arrived in engine.arrivals} == {"campaigns/notices"}


def test_the_table_says_the_same(engine: FakeEngine, run: Run, tmp_path: Path) -> None:
    engine.refusals["text 1"] = verdict_pb2.VERDICT_RECIPIENT_OPTED_OUT
    ran = run("send", str(jsonl(tmp_path / "a.jsonl", 3)), "--campaign", "c", "--recipients", "3")
    assert ran.code == 1  # a line was refused
    assert "line 2: RECIPIENT_OPTED_OUT" in ran.err
    words = ran.out.split()
    for word in ("accepted", "RECIPIENT_OPTED_OUT", "segments", "delivered", "rate", "p50"):
        assert word in words


def test_running_it_again_makes_no_second_message(engine: FakeEngine, run: Run, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", 300)
    arguments = ("send", str(file), "--campaign", "c", "--recipients", "10", "--json")
    assert run(*arguments).code == 0
    # No event comes for what ended long ago: it is looked up.
    again = run(*arguments)
    assert again.code == 0, again.err
    assert again.json["delivered"] == 300
    assert again.json["final_p50_s"] == pytest.approx(1.5, rel=0.03)
    assert (len(engine.arrivals), len(engine.stored)) == (600, 300)


def test_a_changed_line_is_refused_with_advice(engine: FakeEngine, run: Run, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", 2)
    assert run("send", str(file), "--campaign", "c", "--recipients", "2").code == 0
    file.write_text('{"text":"text 0"}\n{"text":"other"}\n', encoding="utf-8")
    ran = run("send", str(file), "--campaign", "c", "--recipients", "2", "--no-wait")
    assert ran.code == 1
    assert "line 2: REQUEST_ID_REUSED" in ran.err
    assert "--batch NAME" in ran.err
    assert run("send", str(file), "--campaign", "c", "--recipients", "2", "--batch", "new", "--no-wait").code == 0
    assert len(engine.stored) == 4


def test_it_survives_a_restart_in_the_middle(engine: FakeEngine, run: Run, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", 3000)
    engine.batch_messages_max = 200
    engine.stop_after = 1000

    def restart() -> None:
        assert engine.stopping.wait(timeout=30)
        engine.stop()
        engine.start()

    restarting = threading.Thread(target=restart)
    restarting.start()
    ran = run("send", str(file), "--campaign", "c", "--recipients", "100", "--json")
    restarting.join(timeout=30)
    assert engine.stopping.is_set()
    assert ran.code == 0, ran.err
    assert ran.json["delivered"] == 3000
    assert len(engine.stored) == 3000
    assert len(engine.arrivals) > 3000  # some were asked again, under the same ids


@pytest.mark.parametrize("lookups_max", [0, 200], ids=["by list", "one by one"])
def test_missed_events_are_looked_up(
    engine: FakeEngine, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lookups_max: int
) -> None:
    monkeypatch.setattr(send_run, "LOOKUPS_MAX", lookups_max)
    monkeypatch.setattr(send_run, "IDLE_FIRST_S", 0.05)
    engine.silent = True
    ran = run("send", str(jsonl(tmp_path / "a.jsonl", 50)), "--campaign", "c", "--recipients", "5", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["delivered"] == 50
    assert any(name == "ListMessages" for name, _ in engine.calls) == (lookups_max == 0)


def test_an_end_to_waiting(engine: FakeEngine, run: Run, tmp_path: Path) -> None:
    engine.hold = True
    ran = run(
        "send",
        str(jsonl(tmp_path / "a.jsonl", 5)),
        "--campaign",
        "c",
        "--recipients",
        "5",
        "--wait-max",
        "200ms",
        "--json",
    )
    assert ran.code == 1
    assert ran.json["not_final"] == 5
    assert "5 messages have not ended" in ran.err


def test_without_waiting_it_ends_with_the_last_answer(engine: FakeEngine, run: Run, tmp_path: Path) -> None:
    engine.hold = True
    ran = run(
        "send", str(jsonl(tmp_path / "a.jsonl", 5)), "--campaign", "c", "--recipients", "5", "--no-wait", "--json"
    )
    assert ran.code == 0
    assert "final" not in ran.json


def test_bad_and_refused_lines_go_to_the_rejects_file(engine: FakeEngine, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.csv.gz"
    file.write_bytes(gzip.compress(b"to,text\n+12025550100,good\n+12025550101\n+12025550102,bad\n"))
    engine.refusals["bad"] = verdict_pb2.VERDICT_INVALID_TEXT
    rejects = tmp_path / "rejects.jsonl"
    ran = run("send", str(file), "--campaign", "c", "--rejects", str(rejects), "--json")
    assert ran.code == 1
    assert (ran.json["unreadable"], ran.json["refused"], ran.json["delivered"]) == (1, {"INVALID_TEXT": 1}, 1)
    listed = [json.loads(line) for line in rejects.read_text(encoding="utf-8").splitlines()]
    assert [(entry["line"], entry["reason"].split(":")[0]) for entry in listed] == [
        (3, "1 fields, the heading has 2"),
        (4, "INVALID_TEXT"),
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_shows_what_it_knows(engine: FakeEngine, tmp_path: Path, number: signal.Signals) -> None:
    engine.hold = True
    # Standard input stays open: it is interrupted while it waits for the next line.
    with subprocess.Popen(
        command("send", "-", "--batch", "b", "--campaign", "c", "--recipients", "5", "--json"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=process_environment(),
    ) as sending:
        assert sending.stdin is not None
        assert sending.stdout is not None
        assert sending.stderr is not None
        # A whole chunk of lines, so that it is handed in while the input goes on.
        sending.stdin.write(b'{"text":"a"}\n' * send_run.CHUNK_MESSAGES_MAX)
        sending.stdin.flush()
        assert engine.accepted.wait(timeout=60)
        sending.send_signal(number)
        assert sending.wait(timeout=60) == 130
        assert json.loads(sending.stdout.read())["lines"] == send_run.CHUNK_MESSAGES_MAX
        assert b"nothing is sent twice" in sending.stderr.read()


def test_standard_input_is_a_file_with_a_given_name(engine: FakeEngine, tmp_path: Path) -> None:
    arguments = ("send", "-", "--campaign", "c", "--recipients", "5", "--json")
    unnamed = run_process(arguments, stdin=b'{"text":"a"}\n', cwd=tmp_path)
    assert unnamed.returncode == 2
    assert b"--batch NAME" in unnamed.stderr
    named = run_process([*arguments, "--batch", "b"], stdin=gzip.compress(b'{"text":"a"}\n'), cwd=tmp_path)
    assert named.returncode == 0, named.stderr
    assert json.loads(named.stdout)["delivered"] == 1
    assert len(engine.stored) == 1


def test_a_wrong_key_ends_it_at_once(
    engine: FakeEngine, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGWAVE_API_KEY", "lw_t_wrong")
    ran = run("send", str(jsonl(tmp_path / "a.jsonl", 5)), "--campaign", "c", "--recipients", "5")
    assert ran.code == 1
    assert "UNAUTHENTICATED" in ran.err
    assert "LONGWAVE_API_KEY" in ran.err
    assert engine.arrivals == []


def test_no_key_and_no_engine_are_sentences(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("send", "--campaign", "c", "--to", "+12025550100", "--text", "x")
    without_key = run(*arguments)
    assert without_key.code == 2
    assert "LONGWAVE_API_KEY" in without_key.err
    monkeypatch.setenv("LONGWAVE_API_KEY", API_KEY)
    monkeypatch.setenv("LONGWAVE_GRPC_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(send_run, "FIRST_CONTACT_S", 0.5)
    without_engine = run(*arguments)
    assert without_engine.code == 1
    assert "longwave serve" in without_engine.err


def test_plain_text_leaves_this_machine_only_when_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWAVE_API_KEY", API_KEY)
    ran = run("--address", "engine.example:50051", "info")
    assert ran.code == 2
    assert "not on this machine" in ran.err


def test_the_examples_are_sound(engine: FakeEngine, run: Run) -> None:
    texts = run("send", str(EXAMPLES / "messages.jsonl"), "--recipients", "100", "--json")
    assert texts.code == 0, texts.err
    assert texts.json["lines"] == 200
    listed = run("send", str(EXAMPLES / "recipients.csv"), "--json")
    assert listed.code == 0, listed.err
    assert listed.json["lines"] == 24
    kinds = {arrived.message_class for arrived in engine.arrivals}
    assert kinds == {m.MESSAGE_CLASS_CRITICAL, m.MESSAGE_CLASS_TRANSACTIONAL, m.MESSAGE_CLASS_BULK}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("send",), "'campaign'"),
        (("send", "--recipients", "5"), "go with a FILE"),
        (("send", "nothing.jsonl", "--to", "+12025550100", "--recipients", "5"), "not both"),
        (("send", "nothing.jsonl"), "No such file"),
        (("send", "nothing.txt"), "--format"),
        (("send", "x.jsonl", "--request-id", "r"), "--request-id is for one message"),
        (("send", "--label", "x", "--text", "y"), "KEY=VALUE"),
    ],
)
def test_wrong_calls_say_what_to_do(run: Run, arguments: tuple[str, ...], says: str) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert says in ran.err
