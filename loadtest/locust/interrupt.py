"""An interrupt ends the run, not the user who happens to be at work when it comes."""

import signal

import gevent


def reaches_main() -> None:
    """Raise KeyboardInterrupt in the greenlet that calls this, whichever runs when SIGINT comes.

    Python's own handler raises it there: that user ends with a traceback, and the run goes on.
    """
    gevent.signal_handler(signal.SIGINT, gevent.kill, gevent.getcurrent(), KeyboardInterrupt)
