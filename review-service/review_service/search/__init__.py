"""Search by words and by meaning, and how the two are joined.

The table and its indexes are in `reviews`.
"""
