"""The shared library of all Onecard services: code that at least two of them use."""

__version__ = "0.1.0"
