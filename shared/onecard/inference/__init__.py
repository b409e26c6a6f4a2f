"""What both encoder services do: tokenise, batch, infer, cache and answer, from start to shutdown.

No routes and no model's own code; the queue and the worker are `onecard.batching`.
"""
