"""Fetches models from the hub, converts them to safetensors and checks their digests."""
