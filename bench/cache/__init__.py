"""Measures what the cache saves: hits against misses, and a workload in which few texts are frequent."""
