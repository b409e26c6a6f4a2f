"""The LLM service on vLLM, directly and through the gateway, beside one request at a time on Transformers."""
