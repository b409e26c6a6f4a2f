"""What the gateway says when it refuses."""

import httpx


def reason(answer: httpx.Response) -> str:
    """The message of an error."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "No reason given."
