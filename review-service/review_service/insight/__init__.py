"""Results over all reviews of a restaurant: sentiment counts, strengths and summaries.

Single reviews are in `reviews`; `precompute` decides when summaries are refreshed.
"""
