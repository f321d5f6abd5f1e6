"""Autoscaling: records a real engine's metrics under load, and plays them to the HPA's algorithm over model pods."""
