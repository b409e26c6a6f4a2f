"""Answers of the LLM that are kept, and shared by requests that are alike."""
