"""Load generation and the simulated carrier; the engine never imports it."""
