"""Vectors as clients ask for them, and as the cache keeps them. Pure NumPy."""

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from onecard.cache.serialization import CorruptValue
from onecard.errors import InvalidRequest

Vectors = npt.NDArray[np.float32]


def truncate(vectors: Vectors, dimensions: int | None) -> Vectors:
    """The first `dimensions` components of each row, scaled back to unit length.

    Args:
        vectors: shape (texts, size), rows of unit length.

    Raises:
        InvalidRequest: the model's vectors are shorter.
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
    """One vector as base64 of float32, little-endian unless `endianness` is `big`, or as an array that orjson writes as
    numbers."""
    if encoding_format == "base64":
        return base64.b64encode(vector.astype(">f4" if endianness == "big" else "<f4", copy=False).tobytes()).decode()
    return np.ascontiguousarray(vector)


class VectorCodec:
    """Vectors as they lie in the cache: little-endian float32, nothing else."""

    def __init__(self, size: int) -> None:
        """Take vectors of `size` components only."""
        self._size = size

    def encode(self, value: Vectors) -> bytes:
        """4 bytes a component.

        Raises:
            ValueError: another shape, or a component that is not a finite number.
        """
        if value.shape != (self._size,) or not np.isfinite(value).all():
            raise ValueError("not a vector to keep")
        return value.astype("<f4", copy=False).tobytes()

    def decode(self, payload: bytes) -> Vectors:
        """A float32 vector of shape (size,), read-only.

        Raises:
            Corrupt: another length, or a component that is not a finite number.
        """
        if len(payload) != 4 * self._size:
            raise CorruptValue("not a vector of this length")
        vector = np.frombuffer(payload, dtype="<f4").astype(np.float32, copy=False)
        if not np.isfinite(vector).all():
            raise CorruptValue("not a vector of finite numbers")
        return vector
