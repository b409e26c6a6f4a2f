"""What the stack says when it does not run."""


class StackError(Exception):
    """The stack does not run; the message is one line that says what to do."""
