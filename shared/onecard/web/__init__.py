"""HTTP for all services: app, server, middleware, authentication, health checks and request parsing.

The bytes on a connection are `onecard.protocol`.
"""
