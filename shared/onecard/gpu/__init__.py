"""The GPU that the models share: device and precision, the memory plan, and each process's share of it.

Running the models is `onecard.inference` and `onecard.batching`.
"""
