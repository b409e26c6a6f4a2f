"""Compares the gateway with other relays, in front of an upstream that answers at once."""
