"""The models of all services in one list."""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson

from gateway.calls import Call, look
from gateway.upstreams import Upstream
from onecard.errors import OnecardError
from onecard.wire import TIMEOUT_HEADER

_LOOK = Call("GET", "/v1/models", {TIMEOUT_HEADER: "2000"}, b"")

_KEPT = ("id", "object", "created", "owned_by", "max_model_len", "engine", "stand_in_for")
"""Fields of a service's card that leave the house; an engine's own card holds folders, for one."""


async def cards(upstream: Upstream) -> list[dict[str, Any]]:
    """The cards of one service; none when it does not answer."""
    try:
        reply = await look(_LOOK, upstream)
        try:
            found: list[dict[str, Any]] = orjson.loads(await reply.read())["data"]
        finally:
            reply.close()
    except (OnecardError, ValueError, KeyError, TypeError):
        return []
    return found


def names(card: dict[str, Any]) -> set[str]:
    """The names that the model of a card answers to."""
    return {card["id"], card.get("stand_in_for") or card["id"]}


def _card(card: dict[str, Any], upstream: Upstream) -> dict[str, Any]:
    return {**{name: card[name] for name in _KEPT if name in card}, "service": upstream.name}


async def models(upstreams: Sequence[Upstream]) -> list[dict[str, Any]]:
    """A card for each model that is served now, and by which service."""
    lists = await asyncio.gather(*(cards(upstream) for upstream in upstreams))
    return [_card(card, upstream) for upstream, own in zip(upstreams, lists, strict=True) for card in own]
