"""The native gRPC edge: an asyncio.Protocol over the core's sans-I/O HTTP/2 (`LONGWAVE_EDGE=native`)."""
