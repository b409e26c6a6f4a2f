"""Who may call: the API keys that guard every route but the health checks; and, without a key, under which names."""

import hmac
import ipaddress
from collections.abc import Collection, Sequence
from typing import Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.types import Scope

from onecard.errors import InvalidKey, MissingKey, UnknownHost

UNAUTHENTICATED_PATHS = frozenset({"/health", "/health/live", "/health/ready"})
"""Paths that a load balancer or a container runtime asks without a key."""

MAX_KEY_BYTES = 1024
"""Longer ones are refused before anything is computed from them."""

_HOW_TO_SEND_A_KEY = "Send it in the header 'Authorization: Bearer <key>'."
_VISIBLE_ASCII = frozenset(range(0x21, 0x7F))
"""ASCII without spaces and control characters."""


class Caller(Protocol):
    """Who a key belongs to."""

    @property
    def name(self) -> str:
        """What logs and metrics call it."""


class Guard(Protocol):
    """Decides by the headers alone whether a request may come in."""

    @property
    def open(self) -> bool:
        """Nobody is asked for a key."""

    def check(self, path: str, authorization: Sequence[bytes]) -> Caller | None:
        """Who is calling, from the values of all `Authorization` headers; None where there is but one key, or none.

        Raises:
            MissingKey, InvalidKey: the request may not come in.
        """


class KeyGuard:
    """One key or none: compares the bearer key of a request with the configured one, in constant time."""

    def __init__(self, key: SecretStr | None) -> None:
        self._key = None if key is None else key.get_secret_value().encode()

    @property
    def open(self) -> bool:
        """See `TableAccess`."""
        return self._key is None

    def check(self, path: str, authorization: Sequence[bytes]) -> None:
        """Let the request pass, or raise.

        Raises:
            MissingKey, InvalidKey: a key is configured, and `authorization` is not `Bearer <that key>`.
        """
        if self._key is None or path in UNAUTHENTICATED_PATHS:
            return
        if not hmac.compare_digest(bearer_key(authorization), self._key):
            raise unknown_key_error()


def bearer_key(authorization: Sequence[bytes]) -> bytes:
    """The key in the one `Authorization: Bearer <key>` header: ASCII, without spaces, at most `MAX_KEY_BYTES`.

    Raises:
        MissingKey: there is none.
        InvalidKey: it cannot be one, or there are two headers: proxies do not agree on which counts.
    """
    if len(authorization) > 1:
        raise InvalidKey("Several 'Authorization' headers came. Send one.")
    scheme, _, rest = authorization[0].partition(b" ") if authorization else (b"", b"", b"")
    key = rest.strip(b" ")
    if not scheme or (scheme.lower() == b"bearer" and not key):
        raise MissingKey(f"No API key came with the request. {_HOW_TO_SEND_A_KEY}")
    if scheme.lower() != b"bearer":
        raise InvalidKey(f"The header 'Authorization' is not of the form that is read here. {_HOW_TO_SEND_A_KEY}")
    if len(key) > MAX_KEY_BYTES or not _VISIBLE_ASCII.issuperset(key):
        raise unknown_key_error()
    return key


def unknown_key_error() -> InvalidKey:
    """The answer to a request with a key that nobody has given out."""
    return InvalidKey("This API key is not known here. Check it, or ask the operator for another one.")


def require_known_host(scope: Scope, allowed: Collection[str]) -> None:
    """Answer only who asked for this machine, where there is no key: by `localhost`, by an IP address, or by one of the
    names in `allowed` (`*` is any).

    A page of another site can have its own name point here (DNS rebinding): to the browser it then reads answers of its
    own site. Its name is still in `Host`. (A program may do without the header in HTTP/1.0; a browser never does.)

    Raises:
        UnknownHost: it was another name, or none.
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
