"""The Alembic environment and the revisions of a store's schema, oldest first; run by `engine/stores/migrate.py`."""
