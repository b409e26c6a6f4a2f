"""Settings of a service that uses Redis, as a mixin."""

from dataclasses import replace

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from onecard.redis.address import RedisAddress, parse_nodes, parse_url
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
    """A complete Redis address, instead of host, port and password."""

    redis_sentinels: str | None = None
    """Sentinels, `host:port` separated by commas; login, database and TLS come from the address."""

    redis_sentinel_master: str = Field(default="mymaster", min_length=1)
    """Name of the primary at the Sentinels."""

    redis_sentinel_password: SecretStr | None = None
    """Password of the Sentinels themselves."""

    redis_cluster_nodes: str | None = None
    """Some nodes of a Redis Cluster, `host:port` separated by commas; login and TLS come from the address."""

    queue_redis_url: SecretStr | None = None
    """Complete address of the Redis with the task queue. Default: the cache's Redis, which then must not be a
    Cluster."""

    redis_answer_ms: int = Field(default=50, ge=1, le=10_000)
    """How long a request waits for Redis at most, in ms, before it continues without."""

    @field_validator("redis_url", "queue_redis_url")
    @classmethod
    def _is_an_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            parse_url(url.get_secret_value())
        return url

    @field_validator("redis_sentinels", "redis_cluster_nodes")
    @classmethod
    def _are_nodes(cls, nodes: str | None, info: ValidationInfo) -> str | None:
        if not nodes or not parse_nodes(nodes, 0):
            return None
        if info.data.get("redis_sentinels"):
            raise ValueError("Sentinels and a Cluster exclude each other: leave REDIS_SENTINELS or this one out")
        url = info.data.get("redis_url")
        if info.field_name == "redis_cluster_nodes" and url and parse_url(url.get_secret_value()).database:
            raise ValueError("a Cluster has no database but 0, which REDIS_URL has to name")
        return nodes

    def redis_address(self) -> RedisAddress:
        """The address of the cache's Redis."""
        if self.redis_url is not None:
            address = parse_url(self.redis_url.get_secret_value())
        else:
            address = RedisAddress(
                host=self.redis_host, port=self.redis_port, password=_secret_value(self.redis_password)
            )
        return replace(
            address,
            sentinels=parse_nodes(self.redis_sentinels or "", 26379),
            sentinel_master=self.redis_sentinel_master,
            sentinel_password=_secret_value(self.redis_sentinel_password),
            cluster_nodes=parse_nodes(self.redis_cluster_nodes or "", 6379),
            timeout_seconds=self.redis_answer_ms / 1000,
        )

    def queue_address(self) -> RedisAddress:
        """The address of the task queue's Redis. Celery supports Sentinels, but no Cluster.

        Returns:
            `queue_redis_url` if it is set, else the cache's address.

        Raises:
            SystemExit: the queue would be in a Cluster.
        """
        if self.queue_redis_url is not None:
            return parse_url(self.queue_redis_url.get_secret_value())
        if self.redis_cluster_nodes:
            raise SystemExit("settings: QUEUE_REDIS_URL: the queue of tasks cannot be in a Cluster: name another Redis")
        return self.redis_address()


def _secret_value(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
