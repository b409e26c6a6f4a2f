"""Model folders on disk: where they are, whether they are whole, and what tells one model from another.

Nothing is loaded here.
"""
