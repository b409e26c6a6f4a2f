"""Errors of the command `onecard-pod`. Every message is one line that says what to do."""

from click import ClickException


class PodError(ClickException):
    """A command failed. Click prints the message and exits with code 1."""


class RequestRejected(PodError):
    """RunPod has no such GPU free, or the request breaks a rule (one status for both). Another GPU may be free."""
