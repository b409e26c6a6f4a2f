"""Rate limits: how many requests and tokens each key may use in a minute, in this gateway and in all together.

Not in here: who a key belongs to (`gateway.keys`), and how many requests a service gets at a time (`gateway.upstream`).
"""
