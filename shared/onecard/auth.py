"""The API key that guards every route but the health checks."""

import hmac

from pydantic import SecretStr

from onecard.errors import InvalidKey

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready"})
"""Paths that a load balancer or a container runtime asks without a key."""


class KeyGuard:
    """Compares the bearer key of a request with the configured one, in constant time."""

    def __init__(self, key: SecretStr | None) -> None:
        self._key = None if key is None else key.get_secret_value().encode()

    def check(self, path: str, authorization: bytes | None) -> None:
        """Let the request pass, or raise.

        Raises:
            InvalidKey: a key is configured, and `authorization` is not `Bearer <that key>`.
        """
        if self._key is None or path in OPEN_PATHS:
            return
        scheme, _, given = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._key):
            raise InvalidKey("Send your API key in the header 'Authorization: Bearer <key>'.")
