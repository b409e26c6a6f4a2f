"""Settings of the review service, its worker and its schedule."""

from pathlib import Path

from pydantic import Field, field_validator

from onecard.cache.settings import CacheSettings
from onecard.settings import ModelAddresses, ReviewAddresses
from review_service.index_plan import MIN_INDEX_ROWS


class ReviewSettings(ModelAddresses, CacheSettings):
    """Environment variables of the review service."""

    review_port: int = Field(default=8004, ge=1, le=65535)
    """Port to listen on."""

    review_store: str = Field(default=".onecard/reviews", min_length=1)
    """Folder of the stored reviews, or a bucket (s3://…) that several replicas share."""

    review_batch: int = Field(default=128, ge=1, le=2048)
    """Maximum number of reviews that are embedded, classified and stored together."""

    review_characters: int = Field(default=4000, ge=1, le=100_000)
    """Maximum length of a review's text in characters."""

    review_index_rows: int = Field(default=MIN_INDEX_ROWS, ge=1000)
    """Number of reviews from which on there is a vector index. Fewer are searched exactly, which is as fast."""

    review_cache_mb: int = Field(default=64, ge=1)
    """Maximum size of the indexes in memory, in MiB. What does not fit is read from disk again."""

    search_words: Path | None = None
    """Folder with the operator's words: synonyms, stop_words, antonyms and user_words.txt. Default: built in."""

    review_aspects: Path | None = None
    """File of the aspects that reviews are counted by. Default: the one that comes with the service."""

    neutral_band: tuple[float, float] | None = None
    """Probabilities of being positive, lowest and highest, between which a review counts as neutral: [0.3, 0.8].
    Default: none does."""

    popularity_half_life_seconds: int = Field(default=86_400, ge=60)
    """Half-life of popularity, in seconds: a visit this long ago counts half as much as one now."""

    @field_validator("neutral_band")
    @classmethod
    def _check_band(cls, band: tuple[float, float] | None) -> tuple[float, float] | None:
        if band is not None and not 0 <= band[0] <= band[1] <= 1:
            raise ValueError("is no band. Write two probabilities, the lower one first: [0.3, 0.8]")
        return band


class WorkerSettings(ReviewAddresses, ReviewSettings):
    """Environment variables of the worker and of its schedule."""

    precompute_seconds: int = Field(default=60, ge=1)
    """Interval between two rounds of precomputing, in seconds."""

    precompute_restaurants: int = Field(default=20, ge=0, le=1000)
    """Number of popular restaurants whose responses are precomputed; 0: none."""

    precompute_queries: int = Field(default=50, ge=0, le=1000)
    """Number of popular searches whose responses are precomputed; 0: none."""

    precompute_heartbeat_file: Path | None = None
    """Heartbeat file of the worker or of the schedule. Default: none."""

    precompute_metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of the worker's metrics. Default: none."""
