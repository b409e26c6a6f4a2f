"""What the cache saves: hits beside misses, and a workload in which few texts are asked for often."""
