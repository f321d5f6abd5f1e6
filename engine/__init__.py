"""The domain in Python: what waits (store, carriers, timers) around the pure core `engine._core`."""
