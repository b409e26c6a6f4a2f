"""Benchmarks: the project's encoders beside what people would use instead, in one run on one machine."""
