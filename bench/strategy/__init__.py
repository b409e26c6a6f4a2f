"""Replays a day's traffic against the strategy's start and against each of its phases."""
