"""Responses that are given without a computation of their own: cached ones, and those that several requests share.
Not in here: how a service is asked, and the cache itself, which all services have from `onecard.cache`."""
