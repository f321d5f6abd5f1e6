"""What the native edge takes from the core: HTTP/2 and gRPC's framing of one connection, without a socket.

It holds nothing and knows no method; `engine/_core.pyi` says what each does.
"""

from engine._core import EdgeConnection, EdgeRules

__all__ = ["EdgeConnection", "EdgeRules"]
