"""The cache of results: keys, a memory tier, a Redis tier, and the policy of a request's `Cache-Control`.

Requests that share a running computation are `onecard.coalescing`; the connection to Redis is `onecard.redis`.
"""
