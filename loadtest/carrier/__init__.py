"""A simulated carrier: a process of its own that speaks Telnyx's send API and sends signed receipts.

It knows nothing of the engine and imports neither `engine` nor `server`; the engine meets it as `telnyx` with another
base URL.

Invariants: what becomes of a message depends on the seed, the recipient, the content and how often that pair was seen,
never on the clock; message and event ids are new in every process; all memory is bounded by numbers in `config.py`.
"""
