"""What Longwave costs on this machine, measured from outside: a real engine process over gRPC, beside its ceilings.

It imports nothing of the engine. `python -m loadtest.benchmarks` (or `make bench`) runs it.
"""
