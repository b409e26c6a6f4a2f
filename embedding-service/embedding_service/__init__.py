"""Embeddings of Korean texts: a sentence encoder in half precision, served over OpenAI's API."""
