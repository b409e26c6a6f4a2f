"""The vector search's benchmark."""
