"""What state the stored reviews are in, as names that change whenever what is answered from them may."""

from collections import OrderedDict
from hashlib import blake2b

from lancedb.expr import col, lit

from review_service.reviews.store import ReviewStore

MAX_CACHED_RESTAURANTS = 10_000
"""Restaurants whose version is kept in mind."""
_DIGEST_BYTES = 8


class TableVersions:
    """The versions of a store's reviews, read from the store itself: no write can be missed, whoever made it."""

    def __init__(self, store: ReviewStore) -> None:
        self._store = store
        self._versions: OrderedDict[str, tuple[str, str]] = OrderedDict()
        """Restaurant → version of the table, and the restaurant's at that time."""

    async def of_all(self) -> str:
        """Of all reviews. Changes now and then without need, when indexes do.

        Raises:
            StoreDamaged: the table cannot be read.
        """
        return await self._store.version()

    async def of_restaurant(self, restaurant_id: str) -> str:
        """Of one restaurant's reviews: other restaurants' do not change it.

        Raises:
            StoreDamaged: the table cannot be read.
        """
        now = await self.of_all()
        known = self._versions.get(restaurant_id)
        if known is None or known[0] != now:
            known = now, await self._digest(restaurant_id)
        self._versions[restaurant_id] = known
        self._versions.move_to_end(restaurant_id)
        if len(self._versions) > MAX_CACHED_RESTAURANTS:
            self._versions.popitem(last=False)
        return known[1]

    async def _digest(self, restaurant_id: str) -> str:
        found = await self._store.read(["review_id", "digest"], where=col("restaurant_id") == lit(restaurant_id))
        pairs = sorted(zip(found["review_id"].to_pylist(), found["digest"].to_pylist(), strict=True))
        return blake2b(repr(pairs).encode(), digest_size=_DIGEST_BYTES).hexdigest()
