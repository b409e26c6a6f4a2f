"""Search by words, by meaning, and by both.

The table and its indexes are in `reviews`.
"""
