"""A probability as the cache keeps it. Pure."""

import math
import struct

from onecard.cache.serialization import CorruptValue

_DOUBLE = struct.Struct("<d")


class ProbabilityCodec:
    """8 bytes: a little-endian double, bit by bit the model's number."""

    def encode(self, value: float) -> bytes:
        """The number's bytes.

        Raises:
            ValueError: it is not a finite number.
        """
        if not math.isfinite(value):
            raise ValueError("not a probability to keep")
        return _DOUBLE.pack(value)

    def decode(self, payload: bytes) -> float:
        """The number.

        Raises:
            Corrupt: another length, or no finite number.
        """
        if len(payload) != _DOUBLE.size:
            raise CorruptValue("not 8 bytes")
        value: float = _DOUBLE.unpack(payload)[0]
        if not math.isfinite(value):
            raise CorruptValue("not a finite number")
        return value
