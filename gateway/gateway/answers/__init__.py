"""Responses without a computation of their own: cached ones, and those that several requests share.

Not in here: how a service is called (`gateway.upstream`), and the cache itself, which is `onecard.cache` for all
services.
"""
