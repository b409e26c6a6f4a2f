"""API keys: their file, the guard that checks them, and which models each may use.

Not in here: how much a key may use in a minute (`gateway.limits`).
"""
