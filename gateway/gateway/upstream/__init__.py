"""What is between the gateway and its services: connections, load balancing, retries, queues, load shedding.

Not in here: what a client is sent (`gateway.relay`), and cached responses (`gateway.answers`).
"""
