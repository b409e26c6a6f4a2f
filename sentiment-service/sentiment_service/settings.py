"""Settings of the sentiment service."""

from pydantic import Field

from onecard.inference.settings import EncoderSettings


class SentimentSettings(EncoderSettings):
    """Environment variables of the sentiment service."""

    sentiment_port: int = Field(default=8002, ge=1, le=65535)
    """Port to listen on."""
