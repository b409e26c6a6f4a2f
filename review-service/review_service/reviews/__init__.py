"""The table of reviews: import, storage, indexes, migrations.

Searches are in `search`.
"""
