"""Compares the review service's vector search with others."""
