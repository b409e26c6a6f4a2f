"""Rate limits: how many requests and tokens each key may use in a minute, here and in all gateways together.
Not in here: who a key belongs to (`gateway.keys`), and how much a service takes at a time (`gateway.upstream`)."""
