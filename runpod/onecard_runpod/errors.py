"""What does not work with RunPod, as one line that says what to do."""

from click import ClickException


class PodError(ClickException):
    """A command cannot be carried out. Click shows the message and ends with exit code 1."""


class RequestRejected(PodError):
    """This card cannot be had, or a rule is broken (RunPod has one status for both); another card may be had."""
