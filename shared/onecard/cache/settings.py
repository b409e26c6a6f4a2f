"""Settings of a service with a cache, as a mixin."""

from pydantic import Field

from onecard.cache.keys import CacheKind
from onecard.redis.settings import RedisSettings


class CacheSettings(RedisSettings):
    """Memory of the cache, and how long it stores values."""

    cache_enabled: bool = True
    """Cache results and answer repeated requests from the cache."""

    cache_memory_mb: float = Field(default=64, ge=0, le=65536)
    """Most memory of the process's own cache tier, in MB (10^6 bytes); 0 uses Redis only."""

    cache_llm_ttl_seconds: int = Field(default=3_600, ge=1)
    """How long a response of the LLM is cached."""

    cache_sentiment_ttl_seconds: int = Field(default=86_400, ge=1)
    """How long the sentiment of a text is cached."""

    cache_embedding_ttl_seconds: int = Field(default=86_400, ge=1)
    """How long the embedding of a text is cached."""

    def ttl_seconds(self, kind: CacheKind) -> int:
        """How long a value is cached.

        Args:
            kind: of the value.

        Returns:
            Seconds; the LLM's time for everything that is not an encoder's result.
        """
        if kind == "sentiment":
            return self.cache_sentiment_ttl_seconds
        if kind == "embedding":
            return self.cache_embedding_ttl_seconds
        return self.cache_llm_ttl_seconds
