"""The task: one POST out, then the row says that it was sent.

`celery --app loadtest.peers.pipeline.work worker`. A task is acknowledged when it ended (`acks_late`), so one whose
worker dies is run again once the broker's visibility timeout has passed (an hour by default; `PIPELINE_VISIBILITY_S`).
"""

import os
from typing import Final

import requests
from celery import Celery
from sqlalchemy import func, update

from loadtest.peers.pipeline.rows import engine, messages

POST_S_MAX: Final = 10
RETRIES_MAX: Final = 8
RESTORE_S: Final = 5

celery = Celery("pipeline", broker=os.environ["PIPELINE_BROKER"])
celery.conf.task_ignore_result = True
celery.conf.broker_connection_retry_on_startup = True
# Looked for every hundred seconds by default, which suits the default hour.
celery.conf.broker_transport_options = {
    "visibility_timeout": int(os.environ["PIPELINE_VISIBILITY_S"]),
    "unacked_restore_interval": RESTORE_S,
    "unacked_restore_throttle": 1,
}
# Of each worker process, made before the fork and first used behind it: a connection is never shared.
session = requests.Session()


@celery.task(acks_late=True, autoretry_for=(requests.RequestException,), retry_backoff=True, max_retries=RETRIES_MAX)
def deliver(identifier: int, recipient: str, text: str) -> None:
    """Send a message and record it."""
    body = {"id": identifier, "to": recipient, "text": text}
    session.post(os.environ["PIPELINE_SINK"], json=body, timeout=POST_S_MAX).raise_for_status()
    with engine.begin() as connection:
        values = {"state": "sent", "sent_at": func.now()}
        connection.execute(update(messages).where(messages.c.id == identifier).values(values))
