"""Redis as all services use it: one pipeline per turn of the event loop, a bounded wait, a circuit breaker.

What is stored there is the business of the cache, the limits and the review service.
"""
