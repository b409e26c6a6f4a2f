"""Reviews in their table: import, storage, indexes, migrations.

Finding them is in `search`.
"""
