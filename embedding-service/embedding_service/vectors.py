"""How vectors are shortened, encoded for clients and stored in the cache. Pure; NumPy only."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onecard.cache.serialization import CorruptValue
from onecard.errors import InvalidRequest

Vectors = npt.NDArray[np.float32]


def truncate(vectors: Vectors, dimensions: int | None) -> Vectors:
    """Keep the first `dimensions` components of each vector and scale it back to unit length.

    Args:
        vectors: float32 of shape (texts, size), rows of unit length.
        dimensions: Number of components to keep; None keeps all.

    Returns:
        float32 of shape (texts, `dimensions`), rows of unit length.

    Raises:
        InvalidRequest: `dimensions` is greater than the size of the model's vectors.
    """
    size = vectors.shape[1]
    if dimensions is None or dimensions == size:
        return vectors
    if dimensions > size:
        raise InvalidRequest(f"'dimensions' is {dimensions}; this model's vectors have {size}.", param="dimensions")
    shorter = vectors[:, :dimensions]
    norms = np.linalg.norm(shorter, axis=1, keepdims=True)
    return np.asarray(shorter / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)


def encode(vector: Vectors, encoding_format: str, endianness: str = "little") -> Any:
    """Encode one vector for the response.

    Args:
        vector: float32 of shape (size,).
        encoding_format: `base64` or `float`.
        endianness: Byte order for base64: `big`, or anything else for little-endian. Unused for `float`.

    Returns:
        Base64 of the float32 bytes as text, or a contiguous array that orjson writes as a list of numbers.
    """
    if encoding_format == "base64":
        return base64.b64encode(vector.astype(">f4" if endianness == "big" else "<f4", copy=False).tobytes()).decode()
    return np.ascontiguousarray(vector)


class VectorCodec:
    """Stores a vector as its little-endian float32 components, without a header."""

    def __init__(self, size: int) -> None:
        """Accept only vectors of `size` components."""
        self._size = size

    def encode(self, value: Vectors) -> bytes:
        """Encode a vector for the cache.

        Args:
            value: float32 of shape (size,).

        Returns:
            4 bytes per component.

        Raises:
            ValueError: The vector has another shape, or a component that is infinite or NaN.
        """
        if value.shape != (self._size,) or not np.isfinite(value).all():
            raise ValueError("not a vector to keep")
        return value.astype("<f4", copy=False).tobytes()

    def decode(self, payload: bytes) -> Vectors:
        """Decode a vector that the cache returned.

        Args:
            payload: What `encode` returned, unless it was damaged in the cache.

        Returns:
            float32 of shape (size,), read-only.

        Raises:
            CorruptValue: The payload has another length, or a component is infinite or NaN.
        """
        if len(payload) != 4 * self._size:
            raise CorruptValue("not a vector of this length")
        vector = np.frombuffer(payload, dtype="<f4").astype(np.float32, copy=False)
        if not np.isfinite(vector).all():
            raise CorruptValue("not a vector of finite numbers")
        return vector


class VectorKind:
    """What the model's results are: unit vectors."""

    def __init__(self, size: int) -> None:
        """Set the number of components of a vector."""
        self.codec = VectorCodec(size)

    def from_array(self, results: Vectors) -> Sequence[Vectors]:
        """Split (texts, size) into one vector of shape (size,) per text."""
        return list(results)

    def is_finite(self, result: Vectors) -> bool:
        """Whether every component is a finite number."""
        return bool(np.isfinite(result).all())

    def is_close(self, one: Vectors, other: Vectors, *, quantised: bool = False) -> bool:
        """Whether the cosine of two unit vectors is at least 0.999, for half precision, or 0.98."""
        return float(np.dot(one, other)) >= (0.98 if quantised else 0.999)
