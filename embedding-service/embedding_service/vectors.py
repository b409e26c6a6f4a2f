"""Vectors as clients ask for them. Pure NumPy."""

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from onecard.errors import InvalidRequest

Vectors = npt.NDArray[np.float32]


def cut(vectors: Vectors, dimensions: int | None) -> Vectors:
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


def encode(vector: Vectors, encoding_format: str) -> Any:
    """One vector as base64 of little-endian float32, or as an array that orjson writes as numbers."""
    if encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode()
    return np.ascontiguousarray(vector)
