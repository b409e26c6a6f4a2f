"""An answer as it is kept, found, and given again."""

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
    """A successful answer, whole; of an event stream, all its events."""

    content_type: str
    """ASCII."""
    body: bytes


async def look_up(
    store: TypedCache[CachedResponse, CachedResponse], key: bytes, timings: dict[str, Timing]
) -> CachedResponse | None:
    """The answer that is kept under `key`; how long it was looked for is left in `timings`."""
    started = time.perf_counter()
    [kept] = await store.get_many([key])
    timings["cache"] = Timing((time.perf_counter() - started) * 1000)
    return kept


def hit_response(kept: CachedResponse) -> Response:
    """A kept answer for a client."""
    return CompleteResponse(kept.body, headers={"content-type": kept.content_type, "x-cache": "hit"})


class CachedResponseCodec:
    """Length of the content type (2 bytes, little-endian), content type, body."""

    def encode(self, value: CachedResponse) -> bytes:
        """The answer as bytes.

        Raises:
            ValueError: the content type is not ASCII, or is longer than 65,535 characters.
        """
        content_type = value.content_type.encode("ascii")
        if len(content_type) > 0xFFFF:
            raise ValueError("a content type of over 65,535 characters")
        return _LENGTH.pack(len(content_type)) + content_type + value.body

    def decode(self, payload: bytes) -> CachedResponse:
        """The answer.

        Raises:
            Corrupt: it is none.
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
