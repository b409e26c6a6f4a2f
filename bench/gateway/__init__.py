"""The gateway beside other relays, in front of an upstream that answers at once."""
