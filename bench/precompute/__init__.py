"""Measures what precomputing costs live traffic, and how fast precomputed responses are."""
