"""Measures what faults of Redis cost requests, and how fast services notice its loss and its return."""
