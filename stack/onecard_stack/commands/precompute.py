"""`onecard precompute`: a round of precomputing now, through the gateway."""

import time
from collections.abc import Callable
from typing import Any

import httpx2 as httpx

from onecard_stack.commands.gateway_errors import error_message
from onecard_stack.errors import StackError
from onecard_stack.settings import StackSettings

START_TIMEOUT_SECONDS = 30.0
"""Until the worker begins."""
POLL_SECONDS = 0.5
READ_TIMEOUT_SECONDS = 60.0
"""The gateway asks a service that refuses again, some seconds later, before it hands that on."""


def run(settings: StackSettings, say: Callable[[str], None]) -> None:
    """Ask for a round, and tell how far it is until it is through.

    Raises:
        StackError: the gateway or the review service is away, or the worker does not begin.
    """
    headers = {"authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
    timeout = httpx.Timeout(READ_TIMEOUT_SECONDS, connect=5)
    with httpx.Client(base_url=settings.gateway_url, headers=headers, timeout=timeout, trust_env=False) as client:
        before = _request(client, "GET", "/v1/precompute/status")["started_at"]
        _request(client, "POST", "/v1/precompute")
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while (found := _request(client, "GET", "/v1/precompute/status"))["started_at"] == before:
            if found["state"] == "running":
                break  # A round is under way already.
            if time.monotonic() > deadline:
                raise StackError("The worker does not begin. See 'onecard logs worker'.")
            time.sleep(POLL_SECONDS)
        while (found := _request(client, "GET", "/v1/precompute/status"))["state"] == "running":
            say(f"{found['waiting']} answers to go")
            time.sleep(POLL_SECONDS * 4)
    told = ", ".join(f"{found[name]} {name}" for name in ("current", "computed", "paused", "failed"))
    say(f"Answers: {told}.")


def _request(client: httpx.Client, method: str, path: str) -> dict[str, Any]:
    try:
        answer = client.request(method, path)
        found: dict[str, Any] = answer.raise_for_status().json()
    except httpx.HTTPStatusError as error:
        refused = error.response
        raise StackError(f"The gateway answers {refused.status_code} to {path}: {error_message(refused)}") from None
    except (httpx.HTTPError, ValueError):
        raise StackError("The gateway does not answer. Start the stack with 'onecard up'.") from None
    return found
