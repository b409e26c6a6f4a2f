"""Embeddings of Korean texts: a sentence encoder in half precision behind OpenAI's API."""
