"""This service's own settings."""

from pathlib import Path

from pydantic import Field

from onecard.cache.settings import CacheSettings
from onecard.settings import ModelAddresses, ReviewAddresses
from review_service.index_plan import MIN_INDEX_ROWS


class ReviewSettings(ModelAddresses, CacheSettings):
    """Environment variables of the review service."""

    review_port: int = Field(default=8004, ge=1, le=65535)
    """Port to listen on."""

    review_store: str = Field(default=".onecard/reviews", min_length=1)
    """Folder of the stored reviews, or the address of a bucket (s3://…), where several replicas share them."""

    review_batch: int = Field(default=128, ge=1, le=2048)
    """Most reviews that are embedded, classified and stored together."""

    review_characters: int = Field(default=4000, ge=1, le=100_000)
    """Longest text of a review."""

    review_index_rows: int = Field(default=MIN_INDEX_ROWS, ge=1000)
    """From so many reviews on a vector index is kept; fewer are searched exactly, which is as quick."""

    review_cache_mb: int = Field(default=64, ge=1)
    """Most megabytes of indexes that are kept in memory; what does not fit is read from disk again."""

    popularity_half_life_seconds: int = Field(default=86_400, ge=60)
    """After so long without visits, what a restaurant or a query has of them counts half."""


class WorkerSettings(ReviewAddresses, ReviewSettings):
    """Environment variables of the worker that precomputes, and of its schedule."""

    precompute_seconds: int = Field(default=60, ge=1)
    """Time from one look at what is popular to the next."""

    precompute_restaurants: int = Field(default=20, ge=0, le=1000)
    """So many restaurants' answers are kept ready; 0: none."""

    precompute_queries: int = Field(default=50, ge=0, le=1000)
    """So many searches' results are kept ready; 0: none."""

    precompute_heartbeat_file: Path | None = None
    """File that the worker, or the schedule, touches while it works. Default: none."""

    precompute_metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Port at which the worker shows its metrics. Default: none."""
