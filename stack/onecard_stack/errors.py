"""The error of a stack that cannot run."""


class StackError(Exception):
    """The stack cannot run. The message is one line that says what to do."""
