"""Where a service is, and what a request looks like that goes there. Pure."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Origin:
    """Where a replica listens."""

    host: str
    port: int
    authority: str
    """What its requests' `host` says."""
    prefix: str = ""
    """What its paths begin with, without a slash at the end."""
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, address: str) -> "Origin":
        """That of a base URL which the settings have let through, `http` or `https`."""
        url = urlsplit(address)
        tls = ssl.create_default_context() if url.scheme == "https" else None
        return cls(url.hostname or "", url.port or (443 if tls else 80), url.netloc, url.path.rstrip("/"), tls)


def request_head(method: str, origin: Origin, path: str, headers: Mapping[str, str], body_bytes: int) -> bytes:
    """A request up to its body.

    Raises:
        ValueError: a line break or a null is in a header or in the path: it would begin something else.
    """
    lines = [
        f"{method} {origin.prefix}{path} HTTP/1.1",
        f"host: {origin.authority}",
        "user-agent: onecard",
        "accept-encoding: identity",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if body_bytes or method == "POST":
        lines.append(f"content-length: {body_bytes}")
    head = "\r\n".join(lines)
    if not head.count("\r") == head.count("\n") == len(lines) - 1 or "\0" in head:
        raise ValueError("a header or the path holds a control character")
    return head.encode("latin-1") + b"\r\n\r\n"
