"""What holds for every test: an interrupt reaches the processes that a test starts, and servers are shared."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.left_out import LEFT_OUT
from tests.servers.databases import Databases
from tests.servers.mariadb import MariaDB, quick_folder
from tests.servers.mysql9 import MySQL9, name_tools
from tests.servers.redis_server import RedisServer
from tests.side_by_side import Turns

TURNS = pytest.StashKey[Turns]()
RUN_ID = "testrunuid"


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and children would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which server the store is tested on, and which clients call it."""
    parser.addoption("--mysql", choices=["9"], help="a MySQL of this version instead of MariaDB: make test-mysql9")
    parser.addoption("--interop", action="store_true", help="clients in other languages, too: make interop builds them")
    parser.addoption(
        "--deploy", action="store_true", help="chart and overlays, too: make lint-chart builds their tools"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Of several workers each knows the turns of all."""
    config.addinivalue_line("markers", "alone: no other test runs meanwhile: it measures, or fills the machine")
    config.stash[LEFT_OUT] = []
    run = getattr(config, "workerinput", {}).get(RUN_ID)
    if run is not None:
        config.stash[TURNS] = Turns(run)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Clients in other languages, and the chart, are runs of their own: what builds their tools is not needed here."""
    name = collection_path.name
    return True if name in {"interop", "deploy"} and not config.getoption(f"--{name}") else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Wait for the test's turn; the time for it begins then."""
    turns = item.config.stash.get(TURNS, None)
    with nullcontext() if turns is None else turns.turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells what it left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash[LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker ended."""
    said = node.config.stash[LEFT_OUT]
    said += [line for line in getattr(node, "workeroutput", {}).get("left_out", []) if line not in said]
    Turns(node.workerinput[RUN_ID]).forget()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out and why."""
    for line in config.stash[LEFT_OUT]:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def server_kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[MariaDB]]:
    """Makes servers of the kind that the run asks for; the tools of that kind are on the path."""
    if not request.config.getoption("--mysql"):
        yield MariaDB
        return
    tools = tmp_path_factory.mktemp("mysql-tools")
    name_tools(tools)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tools), prepend=os.pathsep)
        yield MySQL9


@pytest.fixture(scope="session")
def mariadb(server_kind: type[MariaDB]) -> Iterator[MariaDB]:
    """A server for the whole run; a test that stops or kills one starts its own."""
    with quick_folder() as folder:
        server = server_kind(folder / "server")
        server.start()
        yield server
        server.remove()


@pytest.fixture(scope="session")
def databases(mariadb: MariaDB) -> Databases:
    """Its databases."""
    return Databases(mariadb)


@pytest.fixture
def new_database(databases: Databases) -> Iterator[Callable[[], str]]:
    """Gives databases without rows; the URL of each."""
    taken: list[str] = []

    def take() -> str:
        taken.append(databases.take())
        return databases.server.url(taken[-1])

    yield take
    for name in taken:
        databases.give_back(name)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    made = RedisServer(tmp_path)
    made.start()
    yield made
    made.kill()
