"""How a model writes where a request does not say: the LLM service starts with it, the gateway's cache counts on it."""

DEFAULT_TEMPERATURE = 0.3
DEFAULT_TOP_P = 0.95
