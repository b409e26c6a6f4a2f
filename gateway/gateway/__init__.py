"""The gateway: the only public door, and a thin one."""
