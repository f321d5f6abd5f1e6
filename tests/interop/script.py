"""The script: one and the same calls for every client, each with the status that it is to end with.

It makes none of them.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from tests.interop.serving import CAMPAIGN

Code = grpc.StatusCode
Request = dict[str, Any]

MESSAGING: Final = "longwave.v1.MessagingService/"
HEALTH: Final = "grpc.health.v1.Health/"
SUBMIT: Final = MESSAGING + "SubmitMessage"
STREAM: Final = MESSAGING + "StreamMessages"
WATCH: Final = MESSAGING + "WatchEvents"
RECIPIENT: Final = "+14155550123"
MIB: Final = 1024 * 1024


@dataclass(frozen=True)
class Call:
    """One of them, as the clients read it."""

    name: str
    method: str
    request: Request = field(default_factory=dict)
    code: grpc.StatusCode = Code.OK
    wish: dict[str, Any] = field(default_factory=dict)
    """Whatever else a client is told; see `call` in go/main.go."""
    own_words: bool = False
    """What is said beside the status is the client's own, or what this edge alone counts: it is not compared."""
    over_grpcio: grpc.StatusCode | None = None
    """Where it ends otherwise there, by the client's own judgement."""

    def told(self) -> dict[str, Any]:
        """For a plan."""
        return {"name": self.name, "method": self.method, "request": self.request, **self.wish}


def submission(**other: object) -> Request:
    """One that is accepted."""
    return {"campaign": CAMPAIGN, "recipient": RECIPIENT, "text": "hello", **other}


def one(**other: object) -> Request:
    """A request of SubmitMessage."""
    return {"submission": submission(**other)}


def script(client: str) -> list[Call]:
    """In this order, over one connection but where a call says otherwise; `client` keeps request ids apart."""
    again = f"{client}-again"
    # These keep back what is beyond the bound that a server tells. The native edge tells a higher one than it has, to
    # have a status for what is between them.
    kept_back = Code.INTERNAL if client in {"go", "java"} else None
    long = submission(text="x" * 1000)
    return [
        Call("unary", SUBMIT, one()),
        Call("request id", SUBMIT, one(request_id=again)),
        Call("request id again", SUBMIT, one(request_id=again)),
        Call("request id of other content", SUBMIT, one(request_id=again, text="other"), Code.INVALID_ARGUMENT),
        Call("refused", SUBMIT, one(recipient="+1"), Code.INVALID_ARGUMENT),
        Call("refused for unknown campaign", SUBMIT, one(campaign="campaigns/nobody"), Code.NOT_FOUND),
        Call("batch", MESSAGING + "SubmitMessages", {"submissions": [submission(), submission(recipient="+1")]}),
        Call("no key", SUBMIT, one(), Code.UNAUTHENTICATED, {"key": ""}),
        Call("bad key", SUBMIT, one(), Code.UNAUTHENTICATED, {"key": "lw_nobody"}),
        Call("bad key, watch", WATCH, {}, Code.UNAUTHENTICATED, {"key": "lw_nobody"}),
        Call("bad key, stream", STREAM, {}, Code.UNAUTHENTICATED, {"key": "lw_nobody"}),
        Call("not for this key", "longwave.v1.RegistryService/CreateTenant", {}, Code.PERMISSION_DENIED),
        Call("unknown method", MESSAGING + "Nothing", {}, Code.UNIMPLEMENTED),
        Call("unknown service", "longwave.v1.NobodysService/Nothing", {}, Code.UNIMPLEMENTED),
        Call("unknown message", MESSAGING + "GetMessage", {"name": "messages/0a00000000000"}, Code.NOT_FOUND),
        Call("server", "longwave.v1.ServerService/GetServerInfo"),
        Call("compressed", SUBMIT, one(text="packed"), wish={"gzip": True}),
        Call("compressed and refused", SUBMIT, one(recipient="+1"), Code.INVALID_ARGUMENT, {"gzip": True}),
        Call("compressed stream", STREAM, {"submissions": [submission()]}, wish={"gzip": True, "times": 3}),
        Call("compressed, bad key", SUBMIT, one(), Code.UNAUTHENTICATED, {"gzip": True, "key": "lw_nobody"}),
        Call("stream", STREAM, {"submissions": [submission()]}, wish={"times": 500}),
        Call("stream of batches", STREAM, {"submissions": [long] * 20}, wish={"times": 30}),
        Call("stream, refused", STREAM, {"submissions": [submission(recipient="+1")]}, wish={"times": 2}),
        *(Call(f"long answer {number}", MESSAGING + "ListMessages", {"page_size": 1000}) for number in (1, 2, 3)),
        Call("watch", WATCH, {"cursor": "begin"}, Code.DEADLINE_EXCEEDED, {"deadline_ms": 3000}, own_words=True),
        Call("watch, bad cursor", WATCH, {"cursor": "x"}, Code.INVALID_ARGUMENT),
        Call("watch, cancelled", WATCH, {}, Code.CANCELLED, {"take": 1}, own_words=True),
        Call("watch, deadline", WATCH, {}, Code.DEADLINE_EXCEEDED, {"deadline_ms": 300}, own_words=True),
        Call("stream, cancelled", STREAM, {}, Code.CANCELLED, {"take": 1}, own_words=True),
        Call("stream, deadline", STREAM, {}, Code.DEADLINE_EXCEEDED, {"deadline_ms": 300, "take": 9}, own_words=True),
        Call("metadata", SUBMIT, one(), wish={"metadata_bytes": 6000}),
        *(Call(f"metadata of {many}", SUBMIT, one(), Code.RESOURCE_EXHAUSTED, {"metadata_bytes": many}, own_words=True,
               over_grpcio=kept_back)
          for many in (20_000, 50_000)),
        Call("after big metadata", SUBMIT, one()),
        Call("long request", SUBMIT, one(), Code.INVALID_ARGUMENT, {"text_bytes": 6 * MIB}),
        # Over grpcio, Java's client loses the connection on which it was refused this.
        Call("longer request", SUBMIT, one(), Code.RESOURCE_EXHAUSTED, {"text_bytes": 17 * MIB, "ping_ms": 60_000}),
        Call("long request, compressed", SUBMIT, one(), Code.INVALID_ARGUMENT, {"text_bytes": 6 * MIB, "gzip": True}),
        Call("longer, compressed", SUBMIT, one(), Code.RESOURCE_EXHAUSTED, {"text_bytes": 17 * MIB, "gzip": True},
             own_words=True),
        Call("after long requests", SUBMIT, one()),
        Call("health", HEALTH + "Check"),
        Call("health of a service", HEALTH + "Check", {"service": "longwave.v1.MessagingService"}),
        Call("health of nobody", HEALTH + "Check", {"service": "nobody"}, Code.NOT_FOUND),
        Call("health, watched", HEALTH + "Watch", {}, Code.CANCELLED, {"take": 1}, own_words=True),
        Call("last", SUBMIT, one()),
    ]  # fmt: skip


def pings(ping_ms: int, hold_ms: int) -> list[Call]:
    """A connection kept alive by pings that often, and used again after a while."""
    return [Call("kept alive", SUBMIT, one(), wish={"ping_ms": ping_ms, "hold_ms": hold_ms})]


# Until the server goes.
DRAIN: Final = {
    "submit": Call("submit", SUBMIT, one()).told(),
    "watch": Call("watch", WATCH).told(),
    "stream": Call("stream", STREAM, {"submissions": [submission()]}, wish={"times": 1_000_000}).told(),
    "workers": 16,
    "first": 400,
}
