"""The HTTP API: a message becomes a row and a task, then the caller is answered.

`uvicorn loadtest.peers.pipeline.app:app`, with the table made.
"""

from fastapi import FastAPI
from pydantic import BaseModel, Field
from sqlalchemy import insert

from loadtest.peers.pipeline.rows import engine, messages
from loadtest.peers.pipeline.work import deliver

app = FastAPI()


class Message(BaseModel):
    """What a caller hands in."""

    recipient: str = Field(pattern=r"^\+1\d{10}$")
    text: str = Field(min_length=1, max_length=1600)


@app.post("/messages", status_code=202)
def send(message: Message) -> dict[str, int]:
    """Take a message."""
    row = {"recipient": message.recipient, "text": message.text, "state": "queued"}
    with engine.begin() as connection:
        identifier = int(connection.execute(insert(messages).values(row)).lastrowid)
    deliver.delay(identifier, message.recipient, message.text)
    return {"id": identifier}
