"""The processes of the stack: which there are, how each is launched, and which were left behind."""
