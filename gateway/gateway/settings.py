"""The gateway's own settings."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from onecard.cache.settings import CacheSettings
from onecard.models.sampling_defaults import DEFAULT_TEMPERATURE
from onecard.settings import COMMA_SEPARATED, ModelAddresses, ReviewAddresses, Url

STREAMS_SHARE = 0.25
"""Of all that is buffered (BUFFER_MB), what streams have that several clients read."""
_ORIGIN = re.compile(r"\*|https?://[^/\s]+")


class KeyFileSettings(BaseSettings):
    """All that is needed to make or revoke a key, whatever else is set wrongly."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    api_keys_file: Path | None = None
    """File of named keys, each with its own models and limits; `onecard keys` writes it."""


class GatewaySettings(ReviewAddresses, ModelAddresses, CacheSettings, KeyFileSettings):
    """Environment variables of the gateway."""

    gateway_port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""

    upstream_connect_seconds: float = Field(default=2.0, gt=0)
    """Longest wait for a connection to a service."""

    upstream_first_byte_seconds: float = Field(default=330.0, gt=0)
    """Longest wait for an answer to begin. Longer than what a service allows itself (BULK_TIMEOUT_SECONDS), so that the
    service gets to say that it is late."""

    upstream_read_seconds: float = Field(default=120.0, gt=0)
    """Longest silence of a service that has begun its answer."""

    upstream_total_seconds: float = Field(default=900.0, gt=0)
    """Time limit of a request with all its attempts and the whole of its answer, from the end of its body. Its client's
    x-onecard-timeout-ms can shorten it."""

    upstream_concurrency: int = Field(default=1024, ge=1)
    """Requests at a service at a time, for each of its addresses, streams for as long as they last; more wait."""

    upstream_queue: int = Field(default=256, ge=0)
    """Requests that wait for their turn at a service, of all keys together; more are a 429."""

    buffer_mb: float = Field(default=256.0, ge=16)
    """Most that is held of requests and answers at a time, in MB (10^6 bytes): who sends or asks for more waits some
    seconds, and is then refused."""

    llm_cache_max_temperature: float = Field(default=DEFAULT_TEMPERATURE, ge=0, le=2)
    """Highest temperature of a request whose answer is kept, and shared with requests that are alike."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests a minute of each key that has no limit of its own."""

    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Tokens a minute, of prompts and answers together, of each key that has no limit of its own."""

    reserved_answer_tokens: int = Field(default=512, ge=0)
    """Tokens that an answer is expected to have whose request does not say: they count against the key's limit until it
    is known."""

    otel_exporter_otlp_endpoint: Url | None = None
    """Base URL of an OpenTelemetry collector that takes OTLP over HTTP; without one no spans are made."""

    cors_origins: Annotated[tuple[str, ...], *COMMA_SEPARATED] = ()
    """Origins, separated by commas, whose pages may call from a browser; * is all of them."""

    @property
    def asks_for_keys(self) -> bool:
        """Nobody may call without a key."""
        return self.api_key is not None or self.api_keys_file is not None

    @property
    def has_limits(self) -> bool:
        """A key may have limits. Nobody is asked to run a Redis for limits that there cannot be."""
        has_default = self.requests_per_minute is not None or self.tokens_per_minute is not None
        return self.api_keys_file is not None or (self.api_key is not None and has_default)

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_ORIGIN.fullmatch(origin) for origin in origins):
            raise ValueError("an origin is written https://host or http://host:port")
        return origins
