"""The card: device and precision of a process, the memory plan, and who takes which part of it."""
