"""Client of the Longwave messaging engine: `longwave.client` is the SDK, `longwave.v1` the contract's messages.

It imports nothing: who only needs the contract's messages (the engine does) pays neither for gRPC nor for the SDK.
"""
