"""API keys: the file that holds them, the guard that asks for one, and which models each may use.
Not in here: how much a key may use in a minute, which `gateway.limits` decides."""
