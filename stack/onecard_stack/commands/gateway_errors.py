"""What the gateway says when it refuses."""

import httpx2 as httpx


def error_message(answer: httpx.Response) -> str:
    """The message of an error."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "No reason given."
