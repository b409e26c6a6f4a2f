"""Versions of the stored reviews. They are part of cache keys, and change whenever a response may change."""

from collections import OrderedDict
from hashlib import blake2b

from lancedb.expr import col, lit

from review_service.reviews.store import ReviewStore

MAX_CACHED_RESTAURANTS = 10_000
"""Maximum number of restaurants whose version is cached in memory."""
_DIGEST_BYTES = 8
_COLUMNS = ("review_id", "digest", "sentiment", "sentiment_score")
"""What a restaurant's version is made of. The digest is of what was imported, without what a model says of it."""


class TableVersions:
    """Reads the versions from the store itself, so that no write of any process is missed."""

    def __init__(self, store: ReviewStore) -> None:
        self._store = store
        self._versions: OrderedDict[str, tuple[str, str]] = OrderedDict()
        """By restaurant: a version of the table, and the restaurant's version at that time. An LRU cache."""

    async def of_all(self) -> str:
        """Get the version of all reviews.

        Returns:
            A string that changes with every write. It also changes with index maintenance, although no review does.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        return await self._store.version()

    async def of_restaurant(self, restaurant_id: str) -> str:
        """Get the version of one restaurant's reviews.

        Args:
            restaurant_id: A restaurant; it may have no reviews.

        Returns:
            A string that changes only when a review of this restaurant is added, changed or deleted, or imported again
            with another classifier or into another table, which may be of another model.

        Raises:
            StoreDamaged: The table cannot be read.
        """
        table_version = await self.of_all()
        cached = self._versions.get(restaurant_id)
        if cached is None or cached[0] != table_version:
            cached = table_version, await self._digest(restaurant_id, table_version.partition("-")[0])
        self._versions[restaurant_id] = cached
        self._versions.move_to_end(restaurant_id)
        if len(self._versions) > MAX_CACHED_RESTAURANTS:
            self._versions.popitem(last=False)
        return cached[1]

    async def _digest(self, restaurant_id: str, table_id: str) -> str:
        rows = await self._store.read(_COLUMNS, where=col("restaurant_id") == lit(restaurant_id))
        reviews = sorted(zip(*(rows[name].to_pylist() for name in _COLUMNS), strict=True))
        return blake2b(repr((table_id, reviews)).encode(), digest_size=_DIGEST_BYTES).hexdigest()
