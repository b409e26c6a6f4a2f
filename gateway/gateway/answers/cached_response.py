"""A response as the cache stores it, and how it is looked up and returned."""

import struct
import time
from dataclasses import dataclass

from fastapi.responses import Response
from starlette.types import Scope

from gateway.relay import WRITE_BYTES, CompleteResponse
from onecard.cache.serialization import CorruptValue
from onecard.cache.tiers import TypedCache
from onecard.web.middleware import request_state
from onecard.web.server_timing import Timing

_LENGTH = struct.Struct("<H")


@dataclass(frozen=True)
class CachedResponse:
    """A complete successful response; of an event stream, all events."""

    content_type: str
    """ASCII."""
    body: bytes | memoryview
    """A view if it comes from the cache: requests for one response share its bytes."""


async def cached_answer(store: TypedCache[CachedResponse, CachedResponse], key: bytes, scope: Scope) -> Response | None:
    """Answer a request from the cache.

    Args:
        store: the cache.
        key: of the response.
        scope: of the request, which holds buffer space until the end of the response. Its timings get the duration of
            the look-up, as `cache`.

    Returns:
        The response, with `x-cache: hit`; None if it is not cached.

    Raises:
        Unavailable: there is no buffer space.
    """
    state = request_state(scope)
    started = time.perf_counter()
    [cached] = await store.get_many([key])
    state["timings"]["cache"] = Timing((time.perf_counter() - started) * 1000)
    if cached is None:
        return None
    # Who reads an answer of the process's memory adds what is on its way to him; others hold a copy of their own.
    shared = store.is_in_memory(key)
    is_long = len(cached.body) > WRITE_BYTES
    count = WRITE_BYTES if is_long and shared else len(cached.body)
    await state["held"].acquire(count, "long answer" if is_long else "answer")
    # A short body is sent as it is, and what looks at it on its way expects bytes.
    body = cached.body if is_long else bytes(cached.body)
    return CompleteResponse(body, headers={"content-type": cached.content_type, "x-cache": "hit"})


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
            return CachedResponse(payload[_LENGTH.size : end].decode("ascii"), memoryview(payload)[end:])
        except UnicodeDecodeError:
            raise CorruptValue("a content type that is not ASCII") from None
