"""Redis for all services: automatic pipelining, bounded waits and a circuit breaker.

What is stored there is defined by the cache, the gateway's limits and the review service.
"""
