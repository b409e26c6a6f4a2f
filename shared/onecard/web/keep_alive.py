"""How long idle connections stay open. Imports nothing, because commands read it too."""

KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep theirs in a pool, so that they close first."""
