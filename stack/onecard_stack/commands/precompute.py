"""The command `onecard precompute`: runs a round of precomputing through the gateway."""

import time
from collections.abc import Callable
from typing import Any

import httpx2 as httpx

from onecard_stack.commands.gateway_errors import error_message
from onecard_stack.errors import StackError
from onecard_stack.settings import StackSettings

START_TIMEOUT_SECONDS = 30.0
"""How long the worker may take to begin the round."""
POLL_SECONDS = 0.5
READ_TIMEOUT_SECONDS = 60.0
"""Long enough for the gateway's own retries, some seconds apart, before it passes on an error."""


def run(settings: StackSettings, say: Callable[[str], None]) -> None:
    """Start a round, and print its progress until it ends.

    Args:
        settings: the stack's settings.
        say: prints a line of progress.

    Raises:
        StackError: the gateway does not answer or answers with an error, or the worker does not begin in time.
    """
    headers = {"authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
    timeout = httpx.Timeout(READ_TIMEOUT_SECONDS, connect=5)
    with httpx.Client(base_url=settings.gateway_url, headers=headers, timeout=timeout, trust_env=False) as client:
        previous_start = _request(client, "GET", "/v1/precompute/status")["started_at"]
        _request(client, "POST", "/v1/precompute")
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while (status := _request(client, "GET", "/v1/precompute/status"))["started_at"] == previous_start:
            if status["state"] == "running":
                break  # A round was running already.
            if time.monotonic() > deadline:
                raise StackError("The worker does not begin. See 'onecard logs worker'.")
            time.sleep(POLL_SECONDS)
        while (status := _request(client, "GET", "/v1/precompute/status"))["state"] == "running":
            say(f"{status['waiting']} answers to go")
            time.sleep(POLL_SECONDS * 4)
    counts = ", ".join(f"{status[name]} {name}" for name in ("current", "computed", "paused", "failed"))
    say(f"Answers: {counts}.")


def _request(client: httpx.Client, method: str, path: str) -> dict[str, Any]:
    try:
        response = client.request(method, path)
        result: dict[str, Any] = response.raise_for_status().json()
    except httpx.HTTPStatusError as error:
        error_response = error.response
        raise StackError(
            f"The gateway answers {error_response.status_code} to {path}: {error_message(error_response)}"
        ) from None
    except (httpx.HTTPError, ValueError):
        raise StackError("The gateway does not answer. Start the stack with 'onecard up'.") from None
    return result
