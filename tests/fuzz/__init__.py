"""Fuzzing: what is hostile is made up, and nothing of it may do harm."""
