"""Runs the simulated carrier: `python -m loadtest.carrier`.

It prints one line of JSON when it listens, then nothing per message; SIGTERM and SIGINT end it with exit code 0.
"""

import argparse
import asyncio
import gc
import os
import signal
import sys
from pathlib import Path

import orjson
import uvloop

from loadtest.carrier.config import Config, ConfigError, parse_config
from loadtest.carrier.ledger import RecordFile
from loadtest.carrier.server import CarrierServer
from loadtest.carrier.signing import SigningKeyError, key_seed_from, load_or_create_key_seed
from loadtest.carrier.state import StartUp


def main() -> int:
    """Run until told to stop; returns the exit code: 0 stopped, 1 cannot listen or record, 2 wrong settings."""
    options = _options()
    try:
        config = _config(options)
        key_seed = (
            key_seed_from(config.seed)
            if options.signing_key_file is None
            else load_or_create_key_seed(options.signing_key_file)
        )
        record_file = None if options.record is None else RecordFile(options.record)
    except (ConfigError, SigningKeyError, OSError) as error:
        sys.stderr.write(f"simulated carrier: {error}\n")
        return 2
    start_up = StartUp(config=config, api_key=options.api_key, key_seed=key_seed)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(start_up, options.host, options.port, record_file))
    except OSError as error:
        sys.stderr.write(f"simulated carrier: {error}\n")
        return 1
    return 0


async def _serve(start_up: StartUp, host: str, port: int, record_file: RecordFile | None) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = await CarrierServer.start(start_up, host, port, record_file)
    # Millions of small tuples live for long: full collections would stop the loop for nothing.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    ready = {"event": "ready", "port": server.port, "public_key": server.carrier.signer.public_key_base64}
    sys.stdout.write(orjson.dumps(ready).decode() + "\n")
    sys.stdout.flush()
    await stopped.wait()
    await server.stop()


def _config(options: argparse.Namespace) -> Config:
    config = Config()
    if options.config is not None:
        try:
            values = orjson.loads(options.config.read_bytes())
        except orjson.JSONDecodeError as error:
            problem = f"{options.config} is not valid JSON: {error}"
            raise ConfigError(problem) from error
        config = parse_config(values, config)
    given = {"seed": options.seed, "inbound_webhook_url": options.inbound_webhook_url}
    return parse_config({name: value for name, value in given.items() if value is not None}, config)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.carrier", description="A simulated carrier.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="what every fate is drawn from (default: the settings' seed, 1)")
    parser.add_argument(
        "--api-key",
        default=os.environ.get("LONGWAVE_TELNYX_API_KEY", "simulated-carrier-key"),
        help="the key callers must send (default: LONGWAVE_TELNYX_API_KEY, else simulated-carrier-key)",
    )
    parser.add_argument(
        "--signing-key-file", type=Path, help="holds the Ed25519 key, created when absent (default: key from the seed)"
    )
    parser.add_argument("--config", type=Path, help="settings as a JSON object, as PUT /control/config takes them")
    parser.add_argument("--record", type=Path, help="append every record to this file as JSON lines")
    parser.add_argument("--inbound-webhook-url", help="where message.received goes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
