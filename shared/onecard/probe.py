"""`python -m onecard.probe PORT`: exits with 0 if the service on this machine's PORT is ready; for health checks."""

import http.client
import sys
from typing import Literal

Look = Literal["answered", "refused", "silent"]
TIMEOUT_SECONDS = 4.0


def ready(port: int) -> bool:
    """Whether `/health/ready` answers 200 within `TIMEOUT_SECONDS`.

    Args:
        port: on 127.0.0.1.

    Returns:
        False for another status, and if there is no HTTP response in time.
    """
    try:
        return _status("127.0.0.1", port, "/health/ready") == 200
    except (OSError, http.client.HTTPException):
        return False


def look(host: str, port: int) -> Look:
    """Ask a service whether it lives, for `TIMEOUT_SECONDS`.

    Args:
        host: name or address.
        port: on it.

    Returns:
        `answered` for any answer, `refused` if the connection is refused or broken off, `silent` if it is taken and
        nothing is answered.
    """
    try:
        _status(host, port, "/health/live")
    except TimeoutError:
        return "silent"
    except (OSError, http.client.HTTPException):
        return "refused"
    return "answered"


def _status(host: str, port: int, path: str) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if ready(int(sys.argv[1])) else 1)
