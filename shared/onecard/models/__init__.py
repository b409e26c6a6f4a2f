"""Model folders on disk: where they are, whether they are complete, and how a model is identified.

No model is loaded here.
"""
