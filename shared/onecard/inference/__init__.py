"""What both encoder services share: tokenise, look up in the cache, batch and infer, from start to shutdown.

Routes and model-specific code are in the services; the queue and the worker are `onecard.batching`.
"""
