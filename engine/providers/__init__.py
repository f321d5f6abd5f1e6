"""Carrier APIs, one folder each: how they are reached, whose word is believed. What their bytes mean is in the core."""
