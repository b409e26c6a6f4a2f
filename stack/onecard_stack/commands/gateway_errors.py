"""Reads the gateway's error responses."""

import httpx2 as httpx


def error_message(response: httpx.Response) -> str:
    """Take the message out of an error response; a default text if it has none."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "No reason given."
