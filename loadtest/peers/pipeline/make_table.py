"""Makes the table of messages: `python -m loadtest.peers.pipeline.make_table`."""

from loadtest.peers.pipeline.rows import engine, metadata

if __name__ == "__main__":
    metadata.create_all(engine)
