"""The review application: reviews in, vector and keyword search, restaurants' sentiment, summaries and strengths."""

import os

# LanceDB's own lines are no JSON, and hold paths; it reads this when it is imported.
os.environ.setdefault("LANCEDB_LOG", "off")
