"""Engines that run an encoder without torch: exported graphs, held to parity with torch before they serve.

A module for each engine imports that engine's library; nothing else does, so that only the chosen one is loaded.
"""
