"""Benchmarks that compare this project with alternatives, in one run on one machine."""
