"""The LLM service: starts the stock vLLM server, or the Transformers engine where vLLM cannot run."""
