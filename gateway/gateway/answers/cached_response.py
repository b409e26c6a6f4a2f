"""A response as the cache stores it, and how it is looked up and returned."""

import struct
import time
from dataclasses import dataclass

from fastapi.responses import Response

from gateway.relay import CompleteResponse
from onecard.cache.serialization import CorruptValue
from onecard.cache.tiers import TypedCache
from onecard.web.server_timing import Timing

_LENGTH = struct.Struct("<H")


@dataclass(frozen=True)
class CachedResponse:
    """A complete successful response; of an event stream, all events."""

    content_type: str
    """ASCII."""
    body: bytes


async def look_up(
    store: TypedCache[CachedResponse, CachedResponse], key: bytes, timings: dict[str, Timing]
) -> CachedResponse | None:
    """Look up a response.

    Args:
        store: the cache.
        key: of the response.
        timings: gets the duration, as `cache`.

    Returns:
        The response; None if it is not cached.
    """
    started = time.perf_counter()
    [cached] = await store.get_many([key])
    timings["cache"] = Timing((time.perf_counter() - started) * 1000)
    return cached


def hit_response(cached: CachedResponse) -> Response:
    """A cached response for a client.

    Args:
        cached: what the cache has.

    Returns:
        The response, with `x-cache: hit`.
    """
    return CompleteResponse(cached.body, headers={"content-type": cached.content_type, "x-cache": "hit"})


class CachedResponseCodec:
    """Length of the content type (2 bytes, little-endian), content type, body."""

    def encode(self, value: CachedResponse) -> bytes:
        """Serialize a response.

        Args:
            value: the response.

        Returns:
            Its bytes.

        Raises:
            ValueError: the content type is not ASCII, or is longer than 65,535 characters.
        """
        content_type = value.content_type.encode("ascii")
        if len(content_type) > 0xFFFF:
            raise ValueError("a content type of over 65,535 characters")
        return _LENGTH.pack(len(content_type)) + content_type + value.body

    def decode(self, payload: bytes) -> CachedResponse:
        """Deserialize a response.

        Args:
            payload: what `encode` returned.

        Returns:
            The response.

        Raises:
            CorruptValue: the payload is invalid.
        """
        if len(payload) < _LENGTH.size:
            raise CorruptValue("shorter than a length")
        end = _LENGTH.size + _LENGTH.unpack_from(payload)[0]
        if len(payload) < end:
            raise CorruptValue("shorter than its content type")
        try:
            return CachedResponse(payload[_LENGTH.size : end].decode("ascii"), payload[end:])
        except UnicodeDecodeError:
            raise CorruptValue("a content type that is not ASCII") from None
