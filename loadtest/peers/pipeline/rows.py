"""The table of messages, and the connections to it. Its URL is in `PIPELINE_DATABASE`."""

import os
from typing import Final

from sqlalchemy import BigInteger, Column, DateTime, MetaData, String, Table, create_engine, func

# A connection for each thread that FastAPI runs handlers on.
CONNECTIONS: Final = 40

metadata = MetaData()
messages = Table(
    "messages",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("recipient", String(16), nullable=False),
    Column("text", String(1600), nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at", DateTime, nullable=False, server_default=func.now()),
    Column("sent_at", DateTime),
)
engine = create_engine(os.environ["PIPELINE_DATABASE"], pool_size=CONNECTIONS)
