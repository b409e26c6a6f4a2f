"""The models of all services in one list."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import orjson

from gateway.upstream.request import UpstreamRequest, send_unqueued
from gateway.upstream.services import Upstream
from onecard.coalescing.single_flight import SingleFlight
from onecard.errors import OnecardError
from onecard.web.buffer_semaphore import BufferSemaphore
from onecard.web.request_parsing import TIMEOUT_HEADER

MAX_CARDS_BYTES = 4_000_000
"""Buffer space for a service's model cards; a list over three quarters of it, as for any long answer, counts as no
answer. Each fetch has this space for itself, so that it waits neither for clients' requests nor for another service."""

_PUBLIC_FIELDS = ("id", "object", "created", "owned_by", "max_model_len", "engine", "stand_in_for")
"""Fields of a service's model card that clients may see; an engine's own card has file paths, among others."""


ModelCards = list[dict[str, Any]]


class ModelCatalog:
    """The model cards of the services; concurrent requests for them share one fetch."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without cards.

        Args:
            clock: monotonic seconds.
        """
        self._clock = clock
        self._flights: SingleFlight[ModelCards] = SingleFlight()
        self._cached: dict[str, tuple[float, ModelCards]] = {}

    async def cards(self, upstream: Upstream, max_age_seconds: float = 0.0) -> ModelCards:
        """The model cards of one service.

        Args:
            upstream: the service.
            max_age_seconds: older cards are fetched again.

        Returns:
            The cards as the service sends them; empty if it does not answer.
        """
        fetched_at, cards = self._cached.get(upstream.name, (0.0, []))
        if cards and self._clock() - fetched_at <= max_age_seconds:
            return cards
        return (await self._flights.do(upstream.name, lambda: self._fetch(upstream))).result

    async def models(self, upstreams: Sequence[Upstream]) -> ModelCards:
        """The public cards of all models that are served now.

        Args:
            upstreams: services with models.

        Returns:
            A card for each model, with the name of its service in `service`, in the order of the services.
        """
        lists = await asyncio.gather(*(self.cards(upstream) for upstream in upstreams))
        return [_public_card(card, upstream) for upstream, own in zip(upstreams, lists, strict=True) for card in own]

    async def _fetch(self, upstream: Upstream) -> ModelCards:
        now, cards = self._clock(), await _fetch_cards(upstream)
        self._cached[upstream.name] = now, cards
        return cards


async def _fetch_cards(upstream: Upstream) -> ModelCards:
    with closing(BufferSemaphore(MAX_CARDS_BYTES).lease()) as buffers:
        request = UpstreamRequest("GET", "/v1/models", {TIMEOUT_HEADER: "2000"}, b"", buffers)
        try:
            with closing(await send_unqueued(request, upstream)) as response:
                cards: ModelCards = orjson.loads(await response.read())["data"]
        except (OnecardError, ValueError, KeyError, TypeError):
            return []
    return cards


def model_names(card: dict[str, Any]) -> set[str]:
    """The names by which requests may call a model.

    Args:
        card: its model card.

    Returns:
        Its own name, and that of the model that it stands in for.
    """
    return {card["id"], card.get("stand_in_for") or card["id"]}


def _public_card(card: dict[str, Any], upstream: Upstream) -> dict[str, Any]:
    return {**{name: card[name] for name in _PUBLIC_FIELDS if name in card}, "service": upstream.name}
