"""Embeds the queries of hybrid searches, which go on by words when there is no vector soon."""

import time
from collections.abc import Callable, Sequence

from onecard.batching.queue import Lane
from onecard.errors import DeadlineExceeded, TooBusy, Unavailable
from onecard.redis.circuit_breaker import CircuitBreaker
from review_service.model_services import (
    RETRY_AFTER_SECONDS,
    EmbeddedTexts,
    InputType,
    InvalidModelResponse,
    ModelServices,
)

QUERY_SECONDS = 1.0
"""A user's hybrid search waits this long for its query's vector."""


class QueryEmbedder:
    """Embeds queries. While the embedding service is away, only one query at a time still asks for it.

    A circuit breaker remembers that it is away. The others fail at once, so that their searches go on by words.
    """

    def __init__(self, models: ModelServices, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds."""
        self._models = models
        self._breaker = CircuitBreaker(clock)
        # Closed from the start: the service counts as there until a request fails.
        self._breaker.end_probe(self._breaker.begin_probe())

    async def embed(self, texts: Sequence[str], lane: Lane, input_type: InputType) -> EmbeddedTexts:
        """Embed texts: for a user with one attempt at each replica and within `QUERY_SECONDS`.

        Args:
            texts: As `ModelServices.embed`.
            lane: As `ModelServices.embed`. What is in the bulk lane may wait, as there.
            input_type: As `ModelServices.embed`.

        Returns:
            As `ModelServices.embed`.

        Raises:
            Unavailable: The embedding service is down, or was a moment ago.
            TooBusy: The embedding service is busy.
            DeadlineExceeded: The embedding service does not answer in time.
            InvalidModelResponse: The response does not have a unit vector for each text.
        """
        if lane == "bulk":
            return await self._models.embed(texts, lane, input_type)
        probing = self._breaker.begin_probe()
        if not probing and not self._breaker.closed:
            raise Unavailable("The embedding service is away.", retry_after=RETRY_AFTER_SECONDS)
        healthy = False
        try:
            embedded = await self._models.embed(texts, lane, input_type, seconds=QUERY_SECONDS)
            healthy = True
        except (TooBusy, InvalidModelResponse):
            healthy = True  # It answers.
            raise
        except (Unavailable, DeadlineExceeded):
            self._breaker.trip()
            raise
        finally:
            if probing:
                self._breaker.end_probe(healthy)
        return embedded
