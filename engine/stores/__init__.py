"""Where messages are kept: the embedded SQLite store, its schema and its migrations."""
