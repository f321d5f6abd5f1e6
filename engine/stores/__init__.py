"""Where messages are kept: what a store is asked (`store.py`), and the embedded SQLite one with its migrations."""
