"""Telnyx v2: `link.py` reaches it; `rust_core/src/telnyx/` renders sends and reads answers and webhooks."""
