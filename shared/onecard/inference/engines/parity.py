"""The parity gate: how far an engine's results may lie from torch's in FP32. Pure.

Neighbours matter beside cosines: an encoder whose cosines all lie between 0.7 and 1.0 can keep a cosine of 0.999 to
itself while the order of its neighbours changes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from onecard.inference.engines.names import Precision

FloatArray = npt.NDArray[np.floating[Any]]

NEIGHBOURS = 10


class Parity(BaseModel, frozen=True):
    """How an engine's results for the same texts agree with torch's in FP32. A figure that has no meaning is None."""

    texts: int
    cosine_mean: float | None = None
    cosine_p1: float | None = None
    """First percentile."""
    overlap: float | None = None
    """Part of each text's 10 nearest neighbours, among all the texts, that stays the same; the mean of it."""
    labels_equal: float | None = None
    """Part of the texts with the same label."""
    probability_error: float | None = None
    """Largest difference of a probability."""


@dataclass(frozen=True)
class Gate:
    """The least that an engine must reach."""

    cosine_mean: float
    cosine_p1: float
    overlap: float
    labels_equal: float

    def faults(self, parity: Parity) -> list[str]:
        """Compare figures with the gate.

        Args:
            parity: of an engine.

        Returns:
            Each figure that is below it, in words; empty if the engine passes.
        """
        names = ("cosine_mean", "cosine_p1", "overlap", "labels_equal")
        pairs = [(name, getattr(parity, name), getattr(self, name)) for name in names]
        # Written so that NaN fails.
        return [
            f"{name} {value:.5f} is below {least}"
            for name, value, least in pairs
            if value is not None and not value >= least
        ]


GATES: dict[Precision, Gate] = {
    "half": Gate(cosine_mean=0.999, cosine_p1=0.0, overlap=0.97, labels_equal=0.995),
    "int8": Gate(cosine_mean=0.997, cosine_p1=0.99, overlap=0.92, labels_equal=0.99),
}


def of_vectors(reference: FloatArray, vectors: FloatArray) -> Parity:
    """Compare unit vectors.

    Args:
        reference: torch's in FP32, (N, size).
        vectors: the engine's of the same texts, (N, size).

    Returns:
        The figures.
    """
    cosines = np.einsum("ij,ij->i", reference, vectors, dtype=np.float64)
    return Parity(
        texts=len(reference),
        cosine_mean=float(cosines.mean()),
        cosine_p1=float(np.percentile(cosines, 1)),
        overlap=_overlap(_neighbours(reference), _neighbours(vectors)),
    )


def of_probabilities(reference: FloatArray, probabilities: FloatArray) -> Parity:
    """Compare probabilities of the positive class.

    Args:
        reference: torch's in FP32, (N,).
        probabilities: the engine's of the same texts, (N,).

    Returns:
        The figures.
    """
    return Parity(
        texts=len(reference),
        labels_equal=float(np.mean((reference >= 0.5) == (probabilities >= 0.5))),
        probability_error=float(np.abs(reference - probabilities).max()),
    )


def _neighbours(vectors: FloatArray) -> npt.NDArray[np.int64]:
    """The nearest other texts of each text, int64 (N, up to 10)."""
    similarities = vectors.astype(np.float32) @ vectors.astype(np.float32).T
    np.fill_diagonal(similarities, -np.inf)
    count = min(NEIGHBOURS, len(vectors) - 1)
    return np.argsort(-similarities, axis=1, kind="stable")[:, :count].astype(np.int64)


def _overlap(reference: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> float:
    if not reference.size:
        return 1.0
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(reference, other, strict=True)]))
