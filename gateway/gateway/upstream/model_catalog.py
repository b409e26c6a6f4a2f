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
from onecard.web.request_parsing import TIMEOUT_HEADER

_MODELS_REQUEST = UpstreamRequest("GET", "/v1/models", {TIMEOUT_HEADER: "2000"}, b"")

_PUBLIC_FIELDS = ("id", "object", "created", "owned_by", "max_model_len", "engine", "stand_in_for")
"""Fields of a service's card that leave the house; an engine's own card holds folders, for one."""


ModelCards = list[dict[str, Any]]


class ModelCatalog:
    """What the services say of their models: asked once for all who want to know it at the same time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._flights: SingleFlight[ModelCards] = SingleFlight()
        self._cached: dict[str, tuple[float, ModelCards]] = {}

    async def cards(self, upstream: Upstream, kept_seconds: float = 0.0) -> ModelCards:
        """The cards of one service, not older than that; none when it does not answer."""
        asked_at, found = self._cached.get(upstream.name, (0.0, []))
        if found and self._clock() - asked_at <= kept_seconds:
            return found
        return (await self._flights.do(upstream.name, lambda: self._fetch(upstream))).result

    async def models(self, upstreams: Sequence[Upstream]) -> ModelCards:
        """A card for each model that is served now, and by which service."""
        lists = await asyncio.gather(*(self.cards(upstream) for upstream in upstreams))
        return [_public_card(card, upstream) for upstream, own in zip(upstreams, lists, strict=True) for card in own]

    async def _fetch(self, upstream: Upstream) -> ModelCards:
        now, found = self._clock(), await _fetch_cards(upstream)
        self._cached[upstream.name] = now, found
        return found


async def _fetch_cards(upstream: Upstream) -> ModelCards:
    try:
        with closing(await send_unqueued(_MODELS_REQUEST, upstream)) as reply:
            found: ModelCards = orjson.loads(await reply.read())["data"]
    except (OnecardError, ValueError, KeyError, TypeError):
        return []
    return found


def model_names(card: dict[str, Any]) -> set[str]:
    """The names that the model of a card answers to."""
    return {card["id"], card.get("stand_in_for") or card["id"]}


def _public_card(card: dict[str, Any], upstream: Upstream) -> dict[str, Any]:
    return {**{name: card[name] for name in _PUBLIC_FIELDS if name in card}, "service": upstream.name}
