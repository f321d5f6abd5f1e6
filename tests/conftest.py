"""What holds for every test: an interrupt reaches the processes that a test starts, and servers are shared."""

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.servers.databases import Databases
from tests.servers.mariadb import MariaDB, quick_folder
from tests.servers.mysql9 import MySQL9


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and children would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which server the store is tested on."""
    parser.addoption("--mysql", choices=["9"], help="a MySQL of this version instead of MariaDB: make test-mysql9")


@pytest.fixture(scope="session")
def server_kind(request: pytest.FixtureRequest) -> type[MariaDB]:
    """Makes servers of the kind that the run asks for."""
    return MySQL9 if request.config.getoption("--mysql") else MariaDB


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
