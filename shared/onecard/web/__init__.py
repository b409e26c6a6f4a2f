"""What every HTTP service has: app, server, middleware, authentication, health, and reading of requests.

The bytes on the connection are `onecard.protocol`'s.
"""
