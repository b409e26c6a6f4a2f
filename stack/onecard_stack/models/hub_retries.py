"""When the hub is asked again: it is overloaded, it fails, or the network does."""

from collections.abc import Callable

import httpx2 as httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

MAX_ATTEMPTS = 5
"""How often the hub is asked before it counts as away."""
FIRST_WAIT_SECONDS = 1.0
"""Wait after the first failed attempt; each further one is twice as long, and up to 1 s longer at random."""
MAX_WAIT_SECONDS = 30.0
"""Longest wait between two attempts, also where the hub's Retry-After asks for more."""


class HubUnreachable(Exception):
    """The hub gives no usable answer for now. The message is the reason."""

    def __init__(self, reason: str, *, answered: bool = False, retry_after: float = 0.0) -> None:
        """Describe one failed attempt.

        Args:
            reason: short, for people.
            answered: whether there was an answer: 429 or 5xx, of the hub or of a proxy before it.
            retry_after: seconds that the answer asks to wait; 0 if it names none.
        """
        super().__init__(reason)
        self.answered = answered
        self.retry_after = retry_after


def retrying(again: Callable[[BaseException], bool], attempts: int | None = None) -> Retrying:
    """Make a caller of functions that may fail for a while.

    Args:
        again: whether an error is worth another attempt.
        attempts: how many are made at most; None for `MAX_ATTEMPTS`.

    Returns:
        It makes the attempts, with growing waits between them, and raises the last error as it is.
    """
    backoff = wait_exponential_jitter(multiplier=FIRST_WAIT_SECONDS, max=MAX_WAIT_SECONDS)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return min(max(backoff(state), getattr(error, "retry_after", 0.0)), MAX_WAIT_SECONDS)

    return Retrying(
        retry=retry_if_exception(again), stop=stop_after_attempt(attempts or MAX_ATTEMPTS), wait=wait, reraise=True
    )


def is_temporary(error: BaseException) -> bool:
    """Whether a download may succeed when it is tried again: the network, or an answer of 429 or 5xx."""
    chain = causes(error)
    if any(isinstance(cause, HubUnreachable) for cause in chain):
        return True
    statuses = [status for cause in chain if (status := getattr(getattr(cause, "response", None), "status_code", 0))]
    if statuses:
        return any(status == httpx.codes.TOO_MANY_REQUESTS or status >= 500 for status in statuses)
    return any(isinstance(cause, ConnectionError | TimeoutError | httpx.TransportError) for cause in chain)


def causes(error: BaseException | None) -> list[BaseException]:
    """An error, and those that led to it."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def retry_after(answer: httpx.Response) -> float:
    """Seconds that an answer asks to wait; 0 if it names none, or a date."""
    try:
        return max(0.0, float(answer.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0
