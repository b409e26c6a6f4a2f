"""The library under every Onecard service: what two of them need lives here, once."""

__version__ = "0.1.0"
