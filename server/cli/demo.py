"""`longwave demo`: an engine with its store, a simulated carrier beside it, and a first batch of messages delivered.

It is nothing special to the engine: the same `serve`, the same provider code with another base URL, the same RPCs. What
it makes lies in one folder (`./var`), and goes with it.

Invariants: the two children end before the command does; keys lie in files of mode 0600; a second run finds what the
first one made.
"""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from longwave.client import Client
from server.cli import demo_registry, output
from server.cli.carrier import MODULE as CARRIER
from server.cli.connect import Target
from server.cli.failure import CliFailure, usage
from server.cli.processes import child, ended_by_sigterm, first_line, module_command, tail
from server.cli.send import Job, send_rows
from server.cli.send_rows import Defaults, open_input, read_rows
from server.cli.send_run import Patience

EXAMPLES: Final = Path(__file__).parents[2] / "examples" / "messages.jsonl"
COMMAND: Final = "server"
HOST: Final = "127.0.0.1"
# A first start writes the schema and the 64 MiB reserve; on a slow disk that takes a while.
ENGINE_READY_S: Final = 60.0
CARRIER_READY_S: Final = 20.0
# LONGWAVE_DRAIN_S is 20 s by default; a moment more for its last commit.
ENGINE_STOP_S: Final = 25.0
CARRIER_STOP_S: Final = 5.0
POLL_S: Final = 0.1
# The first batch is a few hundred messages through quotas of hundreds a second.
FIRST_BATCH_S: Final = 120.0
RECIPIENTS: Final = 1000
PRIVATE_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class Place:
    """The demo's folder and ports."""

    folder: Path
    grpc_port: int
    http_port: int
    webhook_port: int

    @property
    def store(self) -> Path:
        """The engine's store."""
        return self.folder / "longwave.db"

    @property
    def tenant_file(self) -> Path:
        """What a shell sources to send: address and a tenant's key."""
        return self.folder / "demo.env"

    @property
    def admin_file(self) -> Path:
        """The same with the admin key."""
        return self.folder / "admin.env"

    @property
    def grpc_address(self) -> str:
        """Where the engine listens."""
        return f"{HOST}:{self.grpc_port}"


Port = Annotated[int, typer.Option(min=1, max=65535, metavar="PORT")]


def demo(
    *,
    state: Annotated[Path, typer.Option(metavar="FOLDER", help="Keep store, keys and logs here.")] = Path("var"),
    grpc_port: Port = 50051,
    http_port: Port = 8080,
    webhook_port: Port = 8081,
    carrier_port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="The simulated carrier's; 0: any free one.")
    ] = 0,
    messages: Annotated[Path, typer.Option(metavar="FILE", help="The first batch, JSON lines.")] = EXAMPLES,
    once: Annotated[bool, typer.Option("--once", help="End after the first batch.")] = False,
) -> None:
    """Run an engine and a simulated carrier, send a first batch of messages, and go on until Ctrl-C.

    Nothing leaves this machine. The second run goes on with what the first one made.
    """
    place = Place(state, grpc_port, http_port, webhook_port)
    if not messages.is_file():
        raise usage(f"{messages} is not there: run it in a checkout, or give --messages FILE")
    _check_ports({"--grpc-port": grpc_port, "--http-port": http_port, "--webhook-port": webhook_port})
    _make_folder(place)
    done = False
    try:
        with ended_by_sigterm(), ExitStack() as children:
            carrier, environment = _start_carrier(children, place, carrier_port)
            admin_key = _bootstrap(place, environment)
            engine = _start_engine(children, place, environment)
            _set_up(place, admin_key)
            _first_batch(place, messages)
            done = True
            if not once:
                _say_what_next(place, messages, environment["LONGWAVE_TELNYX_BASE_URL"])
                _watch_over(place, engine, carrier)
    except KeyboardInterrupt:
        if not done:
            raise
        output.say("stopped")


def _check_ports(ports: Mapping[str, int]) -> None:
    for option, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                probe.listen(1)
            except OSError as error:
                raise usage(
                    f"port {port} of {HOST} cannot be used: {error.strerror}\n"
                    f"is another engine running? stop it, or give {option} another port "
                    f"(make run RUN_COMMAND='.venv/bin/longwave demo {option} N')"
                ) from None


def _make_folder(place: Place) -> None:
    try:
        place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Whatever the name of the folder, nothing in it belongs into version control.
        (place.folder / ".gitignore").write_text("*\n", encoding="ascii")
    except OSError as error:
        raise usage(f"{error.filename}: {error.strerror}\ngive --state another folder") from None


def _start_carrier(children: ExitStack, place: Place, port: int) -> "tuple[subprocess.Popen[bytes], dict[str, str]]":
    """Start the simulated carrier; returns it with the environment in which an engine uses it."""
    # Settings of the shell are for another engine: this one runs on defaults.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LONGWAVE_")}
    environment["LONGWAVE_TELNYX_API_KEY"] = _carrier_key(place)
    log = place.folder / "carrier.log"
    options = ["--host", HOST, "--port", str(port), "--signing-key-file", str(place.folder / "carrier-signing-key")]
    options += ["--inbound-webhook-url", f"http://{HOST}:{place.webhook_port}/webhooks/telnyx"]
    process = children.enter_context(
        child(module_command(CARRIER, options), environment, log, stop_s=CARRIER_STOP_S, piped=True)
    )
    ready = json.loads(first_line(process, CARRIER_READY_S, "the simulated carrier", log))
    environment |= {
        "LONGWAVE_STORE_URL": f"sqlite:///{place.store.resolve()}",
        "LONGWAVE_GRPC_ADDRESS": place.grpc_address,
        "LONGWAVE_HTTP_ADDRESS": f"{HOST}:{place.http_port}",
        "LONGWAVE_WEBHOOK_ADDRESS": f"{HOST}:{place.webhook_port}",
        "LONGWAVE_TELNYX_BASE_URL": f"http://{HOST}:{ready['port']}/v2",
        "LONGWAVE_TELNYX_PUBLIC_KEY": str(ready["public_key"]),
        # The simulated carrier remembers keys, so an attempt cut off by a kill is asked for again without a duplicate.
        "LONGWAVE_TELNYX_HONOURS_KEYS": "true",
        # It gives a receipt up after three tries. Those that came while the engine was down are asked for after a
        # minute, where a real carrier's look-ups cost enough to wait for half an hour.
        "LONGWAVE_LOOKUP_AFTER_MIN": "1",
    }
    output.say(f"simulated carrier: http://{HOST}:{ready['port']}/v2")
    return process, environment


def _carrier_key(place: Place) -> str:
    """The key the engine presents to the carrier; kept, so that what waits from an earlier run goes on with it."""
    path = place.folder / "carrier-api-key"
    if not path.exists():
        _write_private(path, f"KEY{os.urandom(16).hex()}\n")
    return path.read_text(encoding="ascii").strip()


def _bootstrap(place: Place, environment: Mapping[str, str]) -> str:
    """The admin key, made on the first run."""
    if place.store.exists() and place.admin_file.exists():
        return _key_in(place.admin_file)
    done = subprocess.run(  # noqa: S603 - this interpreter and a module of ours
        module_command(COMMAND, ["bootstrap", "--json"]), env=dict(environment), capture_output=True, check=False
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise CliFailure(
            f"{said}\n{place.folder} is only half there: remove it to start anew, or give --state another folder"
        )
    # A tenant's key of a store that is gone would open nothing.
    place.tenant_file.unlink(missing_ok=True)
    key = str(json.loads(done.stdout)["api_key"])
    _write_environment(place, place.admin_file, key)
    output.say(f"store: {place.store} (made)")
    return key


def _start_engine(children: ExitStack, place: Place, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    log = place.folder / "engine.log"
    process = children.enter_context(child(module_command(COMMAND, ["serve"]), environment, log, stop_s=ENGINE_STOP_S))
    until = time.monotonic() + ENGINE_READY_S
    while not _is_ready(place.http_port):
        if process.poll() is not None:
            raise CliFailure(f"the engine ended before it was ready\n{tail(log)}")
        if time.monotonic() > until:
            raise CliFailure(f"the engine was not ready within {ENGINE_READY_S:g} s\n{tail(log)}")
        time.sleep(POLL_S)
    output.say(f"engine: gRPC {place.grpc_address}, operations http://{HOST}:{place.http_port}, log {log}")
    return process


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _set_up(place: Place, admin_key: str) -> None:
    with Client(place.grpc_address, api_key=admin_key) as client:
        demo_registry.make(client.registry)
        known = _key_in(place.tenant_file) if place.tenant_file.exists() else ""
        tenant_key = known or demo_registry.make_tenant_key(client.registry)
    # Both anew: the port may be another one than last time.
    _write_environment(place, place.admin_file, admin_key)
    _write_environment(place, place.tenant_file, tenant_key)


def _first_batch(place: Place, messages: Path) -> None:
    # The SDK's own variables; this process is the client now.
    os.environ["LONGWAVE_API_KEY"] = _key_in(place.tenant_file)
    output.say(f"sending {messages.name} through gRPC …")
    # Each run is a batch of its own: the engine would rightly answer a repeated one with the messages of the first.
    defaults = Defaults(f"demo {time.time_ns()}", {}, RECIPIENTS)
    with open_input(str(messages), sys.stdin.buffer) as stream:
        job = Job(
            Target(address=place.grpc_address),
            read_rows(stream, "jsonl", defaults),
            wait=True,
            patience=Patience(retry_s=30.0, wait_max_s=FIRST_BATCH_S),
        )
        tally = send_rows(job, as_json=False)
    if not tally.complete(waited=True):
        raise CliFailure("not every message of the first batch was accepted")
    output.say(f"{tally.delivered:,} of {tally.read:,} messages delivered")


def _say_what_next(place: Place, messages: Path, carrier_url: str) -> None:
    from_here = _relative(place.tenant_file)
    command = _command()
    output.line(
        f"""
Longwave is running; nothing leaves this machine. In another terminal:

  source {from_here}
  {command} send --campaign notices --to +12025550123 --text 'Your table is ready.' --wait
  {command} send {_relative(messages)} --recipients 1000 --batch again
  {command} watch
  {command} list -n 5
  curl -s http://{HOST}:{place.http_port}/metrics
  grpcurl -plaintext -H "authorization: Bearer $LONGWAVE_API_KEY" \\
    {place.grpc_address} longwave.v1.ServerService/GetServerInfo

The registry takes the admin key: source {_relative(place.admin_file)}
The simulated carrier's switches: {carrier_url.removesuffix("/v2")}/control/config
Ctrl-C ends both.
"""
    )


def _command() -> str:
    """How to call this program again, in the shortest way that works here."""
    called = Path(sys.argv[0])
    if shutil.which("longwave") == str(called.resolve()):
        return "longwave"
    return f"{sys.executable} -m {COMMAND}" if called.name == "__main__.py" else _relative(called)


def _watch_over(place: Place, engine: "subprocess.Popen[bytes]", carrier: "subprocess.Popen[bytes]") -> None:
    """Wait for a signal. Raises CliFailure when one of the two ends by itself."""
    while True:
        for process, name, log in ((engine, "the engine", "engine.log"), (carrier, "the carrier", "carrier.log")):
            if process.poll() is not None:
                raise CliFailure(f"{name} ended with exit code {process.returncode}\n{tail(place.folder / log)}")
        time.sleep(POLL_S)


def _write_environment(place: Place, path: Path, key: str) -> None:
    _write_private(path, f"export LONGWAVE_GRPC_ADDRESS={place.grpc_address}\nexport LONGWAVE_API_KEY={key}\n")


def _write_private(path: Path, content: str) -> None:
    """Write a file that is never readable by others, and never there by half."""
    partial = path.with_name(f"{path.name}.part")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(content)
    partial.replace(path)


def _key_in(path: Path) -> str:
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith("export LONGWAVE_API_KEY="):
            return line.partition("=")[2]
    raise usage(f"{path} holds no key: remove the folder to start anew")


def _relative(path: Path) -> str:
    try:
        # Not resolved to the end: a link in .venv is called by its own name.
        return str(Path(os.path.abspath(path)).relative_to(Path.cwd()))  # noqa: PTH100
    except ValueError:
        return str(path.resolve())
