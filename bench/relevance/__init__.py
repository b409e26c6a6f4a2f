"""Measures the relevance of search results."""
