"""Which card to rent: the catalog → offers, the cheapest first. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_STOCK_LEVELS = ("HIGH", "MEDIUM", "LOW")
"""RunPod's words, the best first; the fourth is NONE."""


@dataclass(frozen=True)
class GpuOffer:
    """A card as RunPod's catalog has it."""

    gpu: str
    """RunPod's id of it."""
    memory_gb: int
    usd_an_hour: float
    """Price in the Secure Cloud, which alone has network volumes."""
    stock: str
    """HIGH, MEDIUM, LOW or NONE."""
    data_centers: tuple[str, ...]
    """Those that have some."""


def gpu_offers(catalog: Sequence[Mapping[str, Any]]) -> list[GpuOffer]:
    """All cards of the Secure Cloud, the cheapest first."""
    found = [_parse_offer(card) for card in catalog if card["secure"]]
    return sorted(found, key=lambda offer: (offer.usd_an_hour, offer.gpu))


def _parse_offer(card: Mapping[str, Any]) -> GpuOffer:
    here = tuple(place["id"] for place in card.get("dataCenters") or () if place["availability"] in _STOCK_LEVELS)
    price = float(card["price"]["secure"])
    return GpuOffer(card["id"], int(card["memory"]), price, card.get("availability", "NONE"), here)


def candidates(all_offers: Sequence[GpuOffer], wanted: Collection[str], data_center: str | None) -> list[GpuOffer]:
    """The wanted cards that are in stock, the cheapest first.

    Args:
        data_center: the only one that will do; None where any will.
    """
    return [
        offer
        for offer in all_offers
        if offer.gpu in wanted
        and offer.stock in _STOCK_LEVELS
        and (data_center is None or data_center in offer.data_centers)
    ]
