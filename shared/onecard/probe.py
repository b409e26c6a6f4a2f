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
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if ready(int(sys.argv[1])) else 1)
