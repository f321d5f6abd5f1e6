"""`longwave get`, `list`, `cancel`, `watch` and `info`."""

import subprocess
import threading
from pathlib import Path

import pytest

from longwave.v1 import messaging_pb2 as m
from tests.cli.conftest import Run, command, process_environment
from tests.cli.fake_engine import FakeEngine


@pytest.fixture
def sent(engine: FakeEngine) -> FakeEngine:
    for number in range(3):
        engine.admit(
            m.Submission(
                campaign="campaigns/c", recipient="+12025550100", text=f"t{number}\x1b[2J", request_id=str(number)
            )
        )
    return engine


@pytest.mark.usefixtures("sent")
def test_a_message_with_its_timeline(run: Run) -> None:
    ran = run("get", "m0000001")
    assert ran.code == 0, ran.err
    assert "DELIVERED" in ran.out
    assert "2023-11-14 22:13:21.500Z" in ran.out
    assert "\x1b" not in ran.out  # what a stranger wrote moves no cursor
    document = run("get", "messages/m0000001", "--json").json
    assert document["message"]["name"] == "messages/m0000001"
    assert [event["seq"] for event in document["timeline"]] == [1]


@pytest.mark.usefixtures("sent")
def test_a_message_that_is_not_there(run: Run) -> None:
    ran = run("get", "nothing")
    assert ran.code == 1
    assert ran.err.startswith("longwave: NOT_FOUND")
    assert "Traceback" not in ran.err


def test_messages_are_listed_newest_first_up_to_a_number(sent: FakeEngine, run: Run) -> None:
    assert [entry["name"][-1] for entry in run("list", "--json").json_lines] == ["3", "2", "1"]
    assert [entry["name"][-1] for entry in run("list", "--json", "-n", "2").json_lines] == ["3", "2"]
    table = run(
        "list", "--campaign", "c", "--state", "delivered", "--state", "queued", "--to", "+12025550100",
        "--since", "2026-01-01T00:00:00Z",
    )  # fmt: skip
    assert table.out.splitlines()[1].split()[:2] == ["m0000003", "DELIVERED"]
    request = [request for name, request in sent.calls if name == "ListMessages"][-1]
    assert (request.campaign, request.recipient) == ("campaigns/c", "+12025550100")
    assert list(request.states) == [m.MESSAGE_STATE_DELIVERED, m.MESSAGE_STATE_QUEUED]
    assert request.accepted_from.seconds == 1_767_225_600


@pytest.mark.usefixtures("sent")
def test_a_message_is_cancelled(run: Run) -> None:
    assert run("cancel", "m0000001", "--json").json == {
        "name": "messages/m0000001",
        "state": "MESSAGE_STATE_CANCELLED",
    }


@pytest.mark.usefixtures("engine")
def test_the_engine_says_what_it_is(run: Run) -> None:
    assert run("info", "--json").json["durability_level"] == "DURABILITY_LEVEL_D1"
    shown = run("info").out
    assert "1.2.3" in shown
    assert "336 h" in shown


def test_events_from_the_beginning(sent: FakeEngine, run: Run) -> None:
    ran = run("watch", "--from-begin", "--events-max", "3", "--json", "--campaign", "c")
    assert ran.code == 0, ran.err
    assert [event["message"] for event in ran.json_lines] == [f"messages/m000000{n}" for n in (1, 2, 3)]
    request = next(request for name, request in sent.calls if name == "WatchEvents")
    assert (request.cursor, list(request.campaigns)) == ("begin", ["campaigns/c"])
    people = run("watch", "--cursor", "2", "-n", "1")
    assert "m0000003  DELIVERED  RECEIPT" in people.out


def test_a_watch_goes_on_after_a_restart(sent: FakeEngine, run: Run) -> None:
    stopped = threading.Event()

    def restart() -> None:
        # The first three are given before the stop, the fourth comes after it.
        sent.stop()
        sent.start()
        sent.admit(m.Submission(campaign="campaigns/c", recipient="+12025550100", text="late", request_id="late"))
        stopped.set()

    restarting = threading.Thread(target=restart)
    restarting.start()
    ran = run("watch", "--from-begin", "-n", "4", "--json")
    restarting.join(timeout=30)
    assert stopped.is_set()
    assert [event["message"][-1] for event in ran.json_lines] == ["1", "2", "3", "4"]


def test_two_places_to_start_are_one_too_many(run: Run) -> None:
    assert run("watch", "--cursor", "1", "--from-begin").code == 2


def test_a_reader_that_goes_ends_it_quietly(sent: FakeEngine, tmp_path: Path) -> None:
    with subprocess.Popen(
        command("watch", "--from-begin", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=process_environment(),
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert watching.stdout.readline()
        watching.stdout.close()
        for number in range(3, 2000):
            sent.admit(m.Submission(campaign="campaigns/c", recipient="+12025550100", text="x", request_id=str(number)))
        assert watching.wait(timeout=30) == 0
        assert b"Traceback" not in watching.stderr.read()
