"""The gateway: the only public service. It relays requests and holds no model."""
