"""Load by Locust: users of every kind, profiles of a day and of worse, a verdict with an exit code.

`python -m loadtest.locust --help`; docs/operations/LOAD.md says how to read what it prints.
"""
