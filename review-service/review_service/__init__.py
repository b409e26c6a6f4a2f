"""The review service: stores reviews, searches them, and computes restaurants' sentiment, summaries and strengths."""

import os

# LanceDB's own log lines are not JSON and contain paths. It reads the variable when it is imported.
os.environ.setdefault("LANCEDB_LOG", "off")
