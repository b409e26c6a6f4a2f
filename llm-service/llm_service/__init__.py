"""The LLM service: the stock vLLM server, configured, or the Transformers engine in its place."""
