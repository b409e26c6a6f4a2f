"""This service's own settings."""

from pydantic import Field

from onecard.settings import ModelAddresses, ServiceSettings


class ReviewSettings(ModelAddresses, ServiceSettings):
    """Environment variables of the review service, its worker and its schedule."""

    review_port: int = Field(default=8004, ge=1, le=65535)
    """Port to listen on."""

    review_store: str = Field(default=".onecard/reviews", min_length=1)
    """Folder of the stored reviews, or the address of a bucket (s3://…), where several replicas share them."""

    review_batch: int = Field(default=128, ge=1, le=2048)
    """Most reviews that are embedded, classified and stored together."""

    review_characters: int = Field(default=4000, ge=1, le=100_000)
    """Longest text of a review."""

    review_index_rows: int = Field(default=50_000, ge=1000)
    """From so many reviews on a vector index is kept; fewer are searched exactly, which is as quick."""
