"""Settings of the embedding service."""

from pydantic import Field

from onecard.inference.settings import EncoderSettings


class EmbeddingSettings(EncoderSettings):
    """Environment variables of the embedding service."""

    embedding_port: int = Field(default=8003, ge=1, le=65535)
    """Port to listen on."""
