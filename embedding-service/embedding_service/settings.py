"""Settings of the embedding service."""

from pydantic import Field

from onecard.inference.settings import EncoderSettings


class EmbeddingSettings(EncoderSettings):
    """Environment variables of the embedding service."""

    embedding_port: int = Field(default=8003, ge=1, le=65535)
    """Port to listen on."""

    embedding_query_prompt: str | None = None
    """What goes in front of queries; by default the prompt in the model's configuration, or nothing."""

    embedding_document_prompt: str | None = None
    """What goes in front of documents; by default the prompt in the model's configuration, or nothing."""
