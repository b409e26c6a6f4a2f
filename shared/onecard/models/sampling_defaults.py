"""Sampling defaults for requests that set none: the LLM service applies them, the gateway's cache relies on them."""

DEFAULT_TEMPERATURE = 0.3
DEFAULT_TOP_P = 0.95
