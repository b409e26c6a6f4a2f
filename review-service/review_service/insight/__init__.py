"""What a restaurant's reviews say together: summaries, strengths, sentiment.

Single reviews are in `reviews`; when summaries are refreshed is decided in `precompute`.
"""
