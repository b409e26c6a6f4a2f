"""The HTTP routes, and the path that cached responses take.

What a route does is in `reviews`, `search`, `insight` and `precompute`.
"""
