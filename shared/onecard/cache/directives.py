"""What a request's `Cache-Control` header asks of the cache (RFC 9111, section 5.2.1). Pure."""

from dataclasses import dataclass
from urllib.request import parse_http_list


@dataclass(frozen=True)
class CachePolicy:
    """What may be done for a request."""

    read: bool
    """Answer it from the cache."""
    store: bool
    """Keep what is computed for it, and share the computation with requests that are alike."""


def parse(header: str | None) -> CachePolicy:
    """`no-cache` computes anew and keeps the result; `no-store` leaves no trace; other directives change nothing."""
    directives = {one.partition("=")[0].strip().lower() for one in parse_http_list(header or "")}
    store = "no-store" not in directives
    return CachePolicy(read=store and "no-cache" not in directives, store=store)
