"""Searches of published works: HTTP adapters, a recorded set, none."""
