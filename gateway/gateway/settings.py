"""The gateway's own settings."""

from typing import Annotated

from pydantic import AfterValidator, Field, HttpUrl, TypeAdapter

from onecard.settings import ServiceSettings

_HTTP_URL = TypeAdapter(HttpUrl)


def _checked(url: str) -> str:
    """The address as it was given, once it is sure to be one: pydantic's own would put a slash at its end."""
    _HTTP_URL.validate_python(url)
    return url.rstrip("/")


Url = Annotated[str, AfterValidator(_checked)]


class GatewaySettings(ServiceSettings):
    """Environment variables of the gateway."""

    gateway_port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""

    llm_url: Url = "http://127.0.0.1:8001"
    """Address of the LLM service."""

    sentiment_url: Url = "http://127.0.0.1:8002"
    """Address of the sentiment service."""

    embedding_url: Url = "http://127.0.0.1:8003"
    """Address of the embedding service."""

    upstream_connect_seconds: float = Field(default=2.0, gt=0)
    """Longest wait for a connection to a service."""

    upstream_read_seconds: float = Field(default=120.0, gt=0)
    """Longest silence of a service that is answering."""
