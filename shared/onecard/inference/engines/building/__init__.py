"""Builds engines: exports a model from torch, quantises it, measures it, and keeps it if it passes the parity gate.

Needs torch and the extra `build-engine`; no service imports this.
"""
