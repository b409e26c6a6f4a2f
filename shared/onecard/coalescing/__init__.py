"""Requests for the same thing share one computation: whole answers, streams, and the texts of a batch.

In memory and by key; what is kept afterwards is `onecard.cache`'s.
"""
