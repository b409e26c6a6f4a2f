"""What a service reads that uses Redis, or keeps a cache in it: mixins for its settings."""

from pydantic import Field, SecretStr, field_validator

from onecard.cache.address import Address, parse_url
from onecard.cache.keys import CacheKind
from onecard.settings import ServiceSettings


class RedisSettings(ServiceSettings):
    """Where Redis is."""

    redis_host: str = Field(default="127.0.0.1", min_length=1)
    """Host of Redis."""

    redis_port: int = Field(default=6379, ge=1, le=65535)
    """Port of Redis."""

    redis_password: SecretStr | None = None
    """Password of the Redis at that host and port."""

    redis_url: SecretStr | None = None
    """A whole Redis address, in place of host, port and password."""

    @field_validator("redis_url")
    @classmethod
    def _is_an_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            parse_url(url.get_secret_value())
        return url

    def redis_address(self) -> Address:
        """Where Redis is."""
        if self.redis_url is not None:
            return parse_url(self.redis_url.get_secret_value())
        password = None if self.redis_password is None else self.redis_password.get_secret_value()
        return Address(host=self.redis_host, port=self.redis_port, password=password)


class CacheSettings(RedisSettings):
    """How much memory the process gives to the cache, and how long values are kept."""

    cache_enabled: bool = True
    """Keep results and answer repeated requests from them."""

    cache_memory_mb: float = Field(default=64, ge=0, le=65536)
    """Most memory of one process's own tier of the cache, in MB (10^6 bytes); 0 leaves Redis alone."""

    cache_llm_ttl_seconds: int = Field(default=3_600, ge=1)
    """How long an answer of the LLM is kept."""

    cache_sentiment_ttl_seconds: int = Field(default=86_400, ge=1)
    """How long a text's sentiment is kept."""

    cache_embedding_ttl_seconds: int = Field(default=86_400, ge=1)
    """How long a text's embedding is kept."""

    def ttl_seconds(self, kind: CacheKind) -> int:
        """How long a value of `kind` is kept."""
        if kind == "sentiment":
            return self.cache_sentiment_ttl_seconds
        if kind == "embedding":
            return self.cache_embedding_ttl_seconds
        return self.cache_llm_ttl_seconds
