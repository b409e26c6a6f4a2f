"""Equal requests share one computation: whole responses, streams, and the texts of a batch.

Works in memory and by key, while the computation runs; storing its result is up to `onecard.cache`.
"""
