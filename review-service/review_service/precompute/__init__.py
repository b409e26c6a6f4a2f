"""Refresh jobs: which answers are computed ahead, when, and by whom.

The answers themselves come from the service's own routes.
"""
