"""How a request's `Cache-Control` header restricts the cache (RFC 9111, section 5.2.1). Pure."""

from dataclasses import dataclass
from urllib.request import parse_http_list


@dataclass(frozen=True)
class CachePolicy:
    """What the cache may do for a request."""

    read: bool
    """Answer it from the cache."""
    store: bool
    """Store its result, and share its computation with equal requests."""


def parse(header: str | None) -> CachePolicy:
    """Read the header.

    Args:
        header: all values of `Cache-Control`, joined by commas; None if there are none.

    Returns:
        `no-cache` computes again and stores the result; `no-store` neither reads nor stores. Other directives are
        ignored.
    """
    directives = {directive.partition("=")[0].strip().lower() for directive in parse_http_list(header or "")}
    store = "no-store" not in directives
    return CachePolicy(read=store and "no-cache" not in directives, store=store)
