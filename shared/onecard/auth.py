"""Who may call: the API keys that guard every route but the health checks."""

import hmac
from collections.abc import Sequence
from typing import Protocol

from pydantic import SecretStr

from onecard.errors import InvalidKey

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready"})
"""Paths that a load balancer or a container runtime asks without a key."""

MAX_KEY_BYTES = 1024
"""Longer ones are refused before anything is computed from them."""

_VISIBLE = frozenset(range(0x21, 0x7F))
"""ASCII without spaces and control characters."""


class Caller(Protocol):
    """Who a key belongs to."""

    @property
    def name(self) -> str:
        """What logs and metrics call it."""


class Guard(Protocol):
    """Decides by the headers alone whether a request may come in."""

    def check(self, path: str, authorization: Sequence[bytes]) -> Caller | None:
        """Who is calling, from the values of all `Authorization` headers; None where there is but one key, or none.

        Raises:
            InvalidKey: the request may not come in.
        """


class KeyGuard:
    """One key or none: compares the bearer key of a request with the configured one, in constant time."""

    def __init__(self, key: SecretStr | None) -> None:
        self._key = None if key is None else key.get_secret_value().encode()

    def check(self, path: str, authorization: Sequence[bytes]) -> None:
        """Let the request pass, or raise.

        Raises:
            InvalidKey: a key is configured, and `authorization` is not `Bearer <that key>`.
        """
        if self._key is None or path in OPEN_PATHS:
            return
        if not hmac.compare_digest(bearer(authorization), self._key):
            raise wrong_key()


def bearer(authorization: Sequence[bytes]) -> bytes:
    """The key in the one `Authorization: Bearer <key>` header: ASCII, without spaces, at most `MAX_KEY_BYTES`.

    Raises:
        InvalidKey: there is no such header, or another one besides it: proxies do not agree on which counts.
    """
    if len(authorization) != 1:
        raise wrong_key()
    scheme, _, rest = authorization[0].partition(b" ")
    key = rest.strip(b" ")
    if scheme.lower() != b"bearer" or not 0 < len(key) <= MAX_KEY_BYTES or not _VISIBLE.issuperset(key):
        raise wrong_key()
    return key


def wrong_key() -> InvalidKey:
    """The answer to a request without a key that counts."""
    return InvalidKey("Send your API key in the header 'Authorization: Bearer <key>'.")
