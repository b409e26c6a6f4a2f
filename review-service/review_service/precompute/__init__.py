"""Precomputing: which responses are refreshed in the cache before users request them, and when.

The responses themselves are computed by the service's own routes.
"""
