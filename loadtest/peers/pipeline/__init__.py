"""The pipeline that a team usually builds itself: FastAPI, Celery over Redis, a row in SQL, one POST out.

It runs in an environment of its own (`requirements/peers.lock`), and knows nothing of Longwave.
"""
