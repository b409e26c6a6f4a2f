"""Measures the LLM service on vLLM, directly and through the gateway, against one request at a time on Transformers."""
