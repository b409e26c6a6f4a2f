"""The HTTP routes, and how their responses are cached.

What the routes do is in `reviews`, `search`, `insight` and `precompute`.
"""
