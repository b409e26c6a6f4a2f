"""The models of all services in one list."""

import asyncio
from typing import Any

from gateway.upstreams import Upstream, Upstreams

_KEPT = ("id", "object", "created", "owned_by", "max_model_len", "engine", "stand_in_for")
"""Fields of a service's card that leave the house; an engine's own card holds folders, for one."""


def _card(card: dict[str, Any], upstream: Upstream) -> dict[str, Any]:
    return {**{name: card[name] for name in _KEPT if name in card}, "service": upstream.name}


async def models(upstreams: Upstreams) -> list[dict[str, Any]]:
    """A card for each model that is served now, and by which service."""
    lists = await asyncio.gather(*(upstream.models() for upstream in upstreams))
    return [_card(card, upstream) for upstream, cards in zip(upstreams, lists, strict=True) for card in cards]
