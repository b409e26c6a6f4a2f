"""Models on this machine: fetched from the hub, converted to safetensors, checked by their digests."""
