"""The card: which device and precision a process uses."""
