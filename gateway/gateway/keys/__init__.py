"""API keys: who may call, for which models, how much."""
