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
"""Share of BUFFER_MB for streams with several readers."""
_ORIGIN = re.compile(r"\*|https?://[^/\s]+")


class KeyFileSettings(BaseSettings):
    """What the key commands need, so that they work even if other settings are invalid."""

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
    """Longest wait for the head of a response of the encoders and the review service. Longer than their own limit
    (BULK_TIMEOUT_SECONDS), so that the client gets the service's error. The LLM has UPSTREAM_TOTAL_SECONDS."""

    upstream_read_seconds: float = Field(default=120.0, gt=0)
    """Longest pause between two chunks of a response."""

    upstream_total_seconds: float = Field(default=900.0, gt=0)
    """Time limit of a request, from the end of its body to the end of its response, with all attempts. The client
    can set a shorter one with x-onecard-timeout-ms."""

    upstream_concurrency: int = Field(default=1024, ge=1)
    """Requests at a service at a time, for each of its addresses; more wait. A stream counts until its end."""

    upstream_queue: int = Field(default=256, ge=0)
    """Requests that wait for a service, of all keys together; more are refused with 429."""

    buffer_mb: float = Field(default=256.0, ge=16)
    """Buffered requests and responses at a time, in MB (10^6 bytes). A client that needs more waits some seconds and
    is then refused."""

    llm_cache_max_temperature: float = Field(default=DEFAULT_TEMPERATURE, ge=0, le=2)
    """Highest temperature of requests whose responses are cached and shared."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests a minute of each key that has no limit of its own; None: unlimited."""

    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Tokens a minute, of prompts and responses together, of each key without a limit of its own; None: unlimited."""

    reserved_answer_tokens: int = Field(default=512, ge=0)
    """Tokens that a response without a limit of its own is expected to have. They count against the key's limit
    until the actual number is known."""

    otel_exporter_otlp_endpoint: Url | None = None
    """Base URL of an OpenTelemetry collector for OTLP over HTTP; None: no traces."""

    cors_origins: Annotated[tuple[str, ...], *COMMA_SEPARATED] = ()
    """Origins whose pages may call from a browser, separated by commas; * is all of them."""

    @property
    def asks_for_keys(self) -> bool:
        """Whether requests need a key."""
        return self.api_key is not None or self.api_keys_file is not None

    @property
    def has_limits(self) -> bool:
        """Whether a key may have limits. Without, they need no Redis."""
        has_default = self.requests_per_minute is not None or self.tokens_per_minute is not None
        return self.api_keys_file is not None or (self.api_key is not None and has_default)

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_ORIGIN.fullmatch(origin) for origin in origins):
            raise ValueError("an origin is written https://host or http://host:port")
        return origins
