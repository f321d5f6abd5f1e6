"""A bare grpc.aio server that returns what it gets: the ceiling of a unary call, a process of its own.

It checks, stores and decodes nothing. It prints its port when it listens; SIGTERM ends it.
"""

import asyncio
import signal
import sys
from typing import Final

import grpc
import grpc.aio
import uvloop

SERVICE: Final = "longwave.benchmarks.Echo"
METHOD: Final = f"/{SERVICE}/Call"


async def echo(request: bytes, _context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
    """The request is the answer."""
    return request


async def serve() -> None:
    """Serve on a free port of this machine until SIGTERM."""
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Call": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await stopped.wait()
    await server.stop(0)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
