"""Sends at times fixed beforehand, from several processes, whatever the answers: latency, goodput, and the knee."""
