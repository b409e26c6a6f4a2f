"""What a probability is to the batcher, and how it is stored in the cache. Pure."""

import math
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onecard.cache.serialization import CorruptValue

_DOUBLE = struct.Struct("<d")


class ProbabilityCodec:
    """Stores a probability as a little-endian double of 8 bytes, without loss."""

    def encode(self, value: float) -> bytes:
        """Encode a probability for the cache.

        Args:
            value: The probability.

        Returns:
            8 bytes.

        Raises:
            ValueError: The value is infinite or NaN.
        """
        if not math.isfinite(value):
            raise ValueError("not a probability to keep")
        return _DOUBLE.pack(value)

    def decode(self, payload: bytes) -> float:
        """Decode a probability that the cache returned.

        Args:
            payload: What `encode` returned, unless it was damaged in the cache.

        Returns:
            The probability.

        Raises:
            CorruptValue: The payload does not have 8 bytes, or is infinite or NaN.
        """
        if len(payload) != _DOUBLE.size:
            raise CorruptValue("not 8 bytes")
        value: float = _DOUBLE.unpack(payload)[0]
        if not math.isfinite(value):
            raise CorruptValue("not a finite number")
        return value


class ProbabilityKind:
    """What the model's results are: probabilities of the positive class."""

    def __init__(self) -> None:
        self.codec = ProbabilityCodec()

    def from_array(self, results: npt.NDArray[np.float32]) -> Sequence[float]:
        """Split (texts,) into one probability per text."""
        probabilities: list[float] = results.tolist()
        return probabilities

    def is_finite(self, result: float) -> bool:
        """Whether the probability is a finite number."""
        return math.isfinite(result)

    def is_close(self, one: float, other: float, *, quantised: bool = False) -> bool:
        """Whether two probabilities differ by at most 0.01, for half precision, or 0.1."""
        return abs(one - other) <= (0.1 if quantised else 0.01)
