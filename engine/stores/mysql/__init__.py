"""The store over MySQL 8 and MariaDB 10.6 or newer: `store.py` is the whole of it, the other modules are its parts."""
