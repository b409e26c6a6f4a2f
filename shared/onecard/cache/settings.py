"""What a service reads that keeps a cache: a mixin for its settings."""

from pydantic import Field

from onecard.cache.keys import CacheKind
from onecard.redis.settings import RedisSettings


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
