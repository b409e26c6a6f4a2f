"""An answer as it is kept, and as it is given again. Pure."""

import struct
from dataclasses import dataclass

from fastapi.responses import Response

from onecard.cache.values import Corrupt

_LENGTH = struct.Struct("<H")


@dataclass(frozen=True)
class Kept:
    """A successful answer, whole; of an event stream, all its events."""

    content_type: str
    """ASCII."""
    body: bytes


def hit(kept: Kept) -> Response:
    """A kept answer for a client."""
    return Response(kept.body, headers={"content-type": kept.content_type, "x-cache": "hit"})


class KeptCodec:
    """Length of the content type (2 bytes, little-endian), content type, body."""

    def encode(self, value: Kept) -> bytes:
        """The answer as bytes.

        Raises:
            ValueError: the content type is not ASCII, or is longer than 65,535 characters.
        """
        content_type = value.content_type.encode("ascii")
        if len(content_type) > 0xFFFF:
            raise ValueError("a content type of over 65,535 characters")
        return _LENGTH.pack(len(content_type)) + content_type + value.body

    def decode(self, payload: bytes) -> Kept:
        """The answer.

        Raises:
            Corrupt: it is none.
        """
        if len(payload) < _LENGTH.size:
            raise Corrupt("shorter than a length")
        end = _LENGTH.size + _LENGTH.unpack_from(payload)[0]
        if len(payload) < end:
            raise Corrupt("shorter than its content type")
        try:
            return Kept(payload[_LENGTH.size : end].decode("ascii"), payload[end:])
        except UnicodeDecodeError:
            raise Corrupt("a content type that is not ASCII") from None
