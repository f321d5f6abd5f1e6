"""Longwave beside what else sends messages: the same messages, the same sink, one machine, one run.

`python -m loadtest.peers` (or `make peers`) runs it. It imports nothing of the engine.
"""
