"""The benchmark of what a search finds."""
