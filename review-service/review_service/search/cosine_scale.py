"""The scale of a model's cosines: what it gives texts that have nothing in common.

Encoders differ in that: multilingual-e5-small gives unrelated texts a cosine of about 0.8, ko-sbert about 0.2. A
model's scale is fixed: it comes from pairs of texts that are the same everywhere, not from a query's results.
"""

import asyncio
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onecard.errors import Unavailable
from review_service.model_services import RETRY_AFTER_SECONDS, Embedder

UNRELATED_QUERIES = (
    "비 오는 날 우산 고치는 방법",
    "ㅁㅁㅁㅇㅇㅇ",
    "축구 경기 결과",
    "hjkl",
    "자동차 보험 가입",
    "9999",
    "고양이 예방 접종 시기",
    "수학 시험 범위",
)
"""Queries that have nothing to do with the texts below, and two that mean nothing."""
UNRELATED_TEXTS = (
    "국물이 진하고 고기가 부드러웠어요.",
    "배우들의 연기가 기억에 남는 영화였다.",
    "숙소가 역에서 가까워서 편했습니다.",
    "직원분들이 친절하게 설명해 주셨어요.",
    "가격이 비싼 데 비해 양이 적네요.",
    "지루해서 끝까지 보기 힘들었음",
    "창밖으로 바다가 보여서 좋았어요!",
    "최고",
)


@dataclass(frozen=True)
class CosineScale:
    """Maps a model's cosines to 0 … 1."""

    floor: float
    """Cosine that becomes 0: that of unrelated texts."""

    def score(self, cosine: float) -> float:
        """Map a cosine: linearly, from `floor` to 1.

        Args:
            cosine: From −1 to 1.

        Returns:
            From 0, for unrelated texts and worse, to 1.
        """
        return min(1.0, max(0.0, (cosine - self.floor) / max(1e-6, 1 - self.floor)))


def scale_of(queries: npt.NDArray[np.float32], texts: npt.NDArray[np.float32]) -> CosineScale:
    """Compute a model's scale.

    Args:
        queries: Vectors of `UNRELATED_QUERIES`, float32 of shape (queries, size), of unit length.
        texts: Vectors of `UNRELATED_TEXTS`, as well.

    Returns:
        The scale.
    """
    return CosineScale(float((queries @ texts.T).mean()))


class CosineScales:
    """The scales of models. Each is computed when a search needs it first, with two requests to the encoder.

    Always in the interactive lane: all searches wait for the first one's, and it may be the worker's.
    """

    def __init__(self, models: Embedder) -> None:
        self._models = models
        self._scales: dict[str, CosineScale] = {}
        self._lock = asyncio.Lock()

    async def scale(self, model: str) -> CosineScale:
        """Get the scale of a model.

        Args:
            model: The model, as in `EmbeddedTexts.model`.

        Returns:
            Its scale.

        Raises:
            Unavailable: The embedding service is down, or has just changed its model.
            TooBusy: The embedding service is busy.
            DeadlineExceeded: The embedding service does not answer in time.
            InvalidModelResponse: The response does not have a unit vector for each text.
        """
        async with self._lock:
            if model not in self._scales:
                queries = await self._models.embed(UNRELATED_QUERIES, "interactive", "query")
                texts = await self._models.embed(UNRELATED_TEXTS, "interactive", "document")
                if queries.model != model or texts.model != model:
                    raise Unavailable(
                        "The embedding service is changing its model. Try again in a few seconds.",
                        retry_after=RETRY_AFTER_SECONDS,
                    )
                self._scales[model] = scale_of(queries.vectors, texts.vectors)
            return self._scales[model]
