"""Chooses the GPUs to rent from RunPod's catalog, cheapest first. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_STOCK_LEVELS = ("HIGH", "MEDIUM", "LOW")
"""RunPod's names of stock levels, highest first. The remaining one is NONE."""


_STORAGE_GB = ((80, 500), (40, 200), (0, 100))
"""By smallest GPU memory in GB, the storage in GB that models, caches and reviews are given beside such a GPU."""


def storage_gb(gpu_gb: int) -> int:
    """Look up how much storage a pod needs. 100, 200 and 500 GB are the plan's sizes for 24, 40 and 80 GB of GPU.

    Args:
        gpu_gb: memory of its GPU in GB.

    Returns:
        The storage in GB.
    """
    return next(storage for smallest, storage in _STORAGE_GB if gpu_gb >= smallest)


@dataclass(frozen=True)
class GpuOffer:
    """A GPU in RunPod's catalog."""

    gpu: str
    """RunPod's id, such as `NVIDIA L4`."""
    memory_gb: int
    usd_an_hour: float
    """Price in the Secure Cloud, the only one with network volumes."""
    stock: str
    """HIGH, MEDIUM, LOW or NONE."""
    data_centers: tuple[str, ...]
    """Ids of the data centers that have it in stock."""


def gpu_offers(catalog: Sequence[Mapping[str, Any]]) -> list[GpuOffer]:
    """Parse the catalog. Returns the GPUs of the Secure Cloud, cheapest first."""
    found = [_parse_offer(gpu) for gpu in catalog if gpu["secure"]]
    return sorted(found, key=lambda offer: (offer.usd_an_hour, offer.gpu))


def _parse_offer(gpu: Mapping[str, Any]) -> GpuOffer:
    data_centers = tuple(
        place["id"] for place in gpu.get("dataCenters") or () if place["availability"] in _STOCK_LEVELS
    )
    price = float(gpu["price"]["secure"])
    return GpuOffer(gpu["id"], int(gpu["memory"]), price, gpu.get("availability", "NONE"), data_centers)


def candidates(all_offers: Sequence[GpuOffer], wanted: Collection[str], data_center: str | None) -> list[GpuOffer]:
    """Select the wanted GPUs that are in stock.

    Args:
        all_offers: all GPUs, in order of preference.
        wanted: RunPod's ids of the acceptable GPUs.
        data_center: the only acceptable data center; None: any.

    Returns:
        The acceptable offers, in the order of `all_offers`.
    """
    return [
        offer
        for offer in all_offers
        if offer.gpu in wanted
        and offer.stock in _STOCK_LEVELS
        and (data_center is None or data_center in offer.data_centers)
    ]
