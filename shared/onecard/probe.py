"""`python -m onecard.probe PORT`: exits with 0 if the service on this machine's PORT is ready; for health checks."""

import http.client
import sys

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


def is_silent(host: str, port: int) -> bool:
    """Whether a service takes connections and answers nothing within `TIMEOUT_SECONDS`.

    Args:
        host: name or address.
        port: on it.

    Returns:
        False for any answer, and if the connection is refused or broken off.
    """
    try:
        _status(host, port, "/health/live")
    except TimeoutError:
        return True
    except (OSError, http.client.HTTPException):
        pass
    return False


def _status(host: str, port: int, path: str) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if ready(int(sys.argv[1])) else 1)
