"""Metrics, progress and log lines that a job writes to its events file."""
