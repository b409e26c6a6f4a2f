"""Authentication by API key, on every route but the health checks; without a key, a check of the host name."""

import hmac
import ipaddress
from collections.abc import Collection, Sequence
from typing import Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.types import Scope

from onecard.errors import InvalidKey, MissingKey, UnknownHost

UNAUTHENTICATED_PATHS = frozenset({"/health", "/health/live", "/health/ready"})
"""Paths that load balancers and container runtimes call without a key."""

MAX_KEY_BYTES = 1024
"""Longer keys are refused before anything is computed from them."""

_HOW_TO_SEND_A_KEY = "Send it in the header 'Authorization: Bearer <key>'."
_VISIBLE_ASCII = frozenset(range(0x21, 0x7F))
"""ASCII without spaces and control characters."""


class Caller(Protocol):
    """The owner of an API key."""

    @property
    def name(self) -> str:
        """The owner's name in logs and metrics."""


class Guard(Protocol):
    """Decides by the headers alone whether a request may pass."""

    @property
    def open(self) -> bool:
        """Whether no key is required."""

    def check(self, path: str, authorization: Sequence[bytes]) -> Caller | None:
        """Authenticate a request.

        Args:
            path: of the request.
            authorization: values of all its `Authorization` headers.

        Returns:
            The owner of the key; None if there is only one key, or none.

        Raises:
            MissingKey: the request has no key.
            InvalidKey: its key is unknown or malformed.
        """


class KeyGuard:
    """One key or none: compares a request's bearer key with the configured one, in constant time."""

    def __init__(self, key: SecretStr | None) -> None:
        """Set the key.

        Args:
            key: None lets every request pass.
        """
        self._key = None if key is None else key.get_secret_value().encode()

    @property
    def open(self) -> bool:
        """Whether no key is required."""
        return self._key is None

    def check(self, path: str, authorization: Sequence[bytes]) -> None:
        """Let the request pass, or raise.

        Args:
            path: of the request; health checks need no key.
            authorization: values of all its `Authorization` headers.

        Raises:
            MissingKey: a key is configured, and the request has none.
            InvalidKey: the request's key is not the configured one, or malformed.
        """  # noqa: DOC501 (what the function returns is raised)
        if self._key is None or path in UNAUTHENTICATED_PATHS:
            return
        if not hmac.compare_digest(bearer_key(authorization), self._key):
            raise unknown_key_error()  # A local would keep its own traceback, and with it the request.


def bearer_key(authorization: Sequence[bytes]) -> bytes:
    """Read the key from the only `Authorization: Bearer <key>` header.

    Args:
        authorization: values of all `Authorization` headers.

    Returns:
        The key: ASCII without spaces, at most `MAX_KEY_BYTES`.

    Raises:
        MissingKey: there is none.
        InvalidKey: it is malformed, or there are several headers, on which proxies may disagree.
    """  # noqa: DOC501 (what the function returns is raised)
    if len(authorization) > 1:
        raise InvalidKey("Several 'Authorization' headers came. Send one.")
    scheme, _, rest = authorization[0].partition(b" ") if authorization else (b"", b"", b"")
    key = rest.strip(b" ")
    if not scheme or (scheme.lower() == b"bearer" and not key):
        raise MissingKey(f"No API key came with the request. {_HOW_TO_SEND_A_KEY}")
    if scheme.lower() != b"bearer":
        raise InvalidKey(f"The header 'Authorization' is not of the form that is read here. {_HOW_TO_SEND_A_KEY}")
    if len(key) > MAX_KEY_BYTES or not _VISIBLE_ASCII.issuperset(key):
        raise unknown_key_error()  # A local would keep its own traceback, and with it the request.
    return key


def unknown_key_error() -> InvalidKey:
    """The error for a key that was never issued."""
    return InvalidKey("This API key is not known here. Check it, or ask the operator for another one.")


def require_known_host(scope: Scope, allowed: Collection[str]) -> None:
    """Check the `Host` header of a request to a server without a key.

    A page of another site can make its own name resolve to this machine (DNS rebinding); the browser then lets it read
    our responses. Its name is still in `Host`. (HTTP/1.0 requests may lack the header, but a browser always sends it.)

    Args:
        scope: of the request.
        allowed: names besides `localhost` and IP addresses, in lower case; `*` allows any.

    Raises:
        UnknownHost: the name is not allowed, or missing.
    """
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    known = all(_is_known(host.decode("latin-1"), allowed) for host in hosts)
    if not known or (not hosts and scope.get("http_version") != "1.0"):
        raise UnknownHost(
            "This server was asked under a host name that it does not know. Ask for localhost or its IP address; its "
            "operator can add the name to ALLOWED_HOSTS, or set API_KEY."
        )


def _is_known(host: str, allowed: Collection[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or name in allowed or "*" in allowed or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
