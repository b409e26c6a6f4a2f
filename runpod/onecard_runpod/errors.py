"""Errors of the command `onecard-pod`. Every message is one line that says what to do."""

from click import ClickException


class PodError(ClickException):
    """A command failed. Click prints the message and exits with code 1."""

    status: int | None = None
    """The HTTP status of RunPod's answer, if that is the reason."""


class RequestRejected(PodError):
    """RunPod has no such GPU free, or the request breaks a rule (one status for both). Another GPU may be free."""


class OutcomeUnknown(PodError):
    """The request may have been carried out: RunPod failed after it had received it, or its answer was lost."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        """`refused`: RunPod answered with status 500 or 503, as it also does when it has no capacity."""
        super().__init__(message)
        self.refused = refused
