"""The processes of the stack: the table of them, how each is launched, and how orphans are found and ended."""
