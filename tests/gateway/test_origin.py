"""Addresses of services, and what is sent there."""

import pytest

from gateway.origin import Origin, request_head

ORIGIN = Origin("127.0.0.1", 8001, "127.0.0.1:8001")


@pytest.mark.parametrize("text", ["a\r\nb: c", "a\nb", "a\rb", "a\0b"])
def test_nothing_that_a_request_says_begins_another_line(text: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        request_head("POST", ORIGIN, "/x", {"x-request-id": text}, 0)
    with pytest.raises(ValueError, match="control character"):
        request_head("GET", ORIGIN, f"/{text}", {}, 0)


def test_a_request_is_as_it_is_meant() -> None:
    """A body has its length, also an empty one of a POST; bytes of a header stay the same bytes."""
    head = request_head("POST", ORIGIN, "/x", {"tracestate": "caf\xe9"}, 0)
    assert head.startswith(b"POST /x HTTP/1.1\r\nhost: 127.0.0.1:8001\r\n")
    assert b"\r\ntracestate: caf\xe9\r\n" in head
    assert head.endswith(b"\r\ncontent-length: 0\r\n\r\n")
    assert b"content-length" not in request_head("GET", ORIGIN, "/x", {}, 0)


@pytest.mark.parametrize(
    ("address", "host", "port", "authority", "prefix"),
    [
        ("http://llm:8001", "llm", 8001, "llm:8001", ""),
        ("http://[::1]:8001/", "::1", 8001, "[::1]:8001", ""),
        ("http://proxy/models/llm/", "proxy", 80, "proxy", "/models/llm"),
        ("https://llm.example", "llm.example", 443, "llm.example", ""),
    ],
)
def test_an_address_leads_somewhere(address: str, host: str, port: int, authority: str, prefix: str) -> None:
    origin = Origin.of(address)
    assert (origin.host, origin.port, origin.authority, origin.prefix) == (host, port, authority, prefix)
    assert (origin.tls is not None) == address.startswith("https")
