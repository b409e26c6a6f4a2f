"""redis-py, configured for one server, one behind Sentinels, or a Cluster.

redis-py takes care of addresses, TLS, logins, connections and redirections. This client sends a list of commands in one
pipeline, or reads a list of keys. It never retries and sets no deadline for replies; `channel` does.
"""

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from onecard.redis.address import HostPort, RedisAddress

CONNECT_TIMEOUT_SECONDS = 1.0
"""Longest attempt to connect, including name lookup, Sentinels and TLS. No request waits for it."""
_NODE_TIMEOUT_SECONDS = CONNECT_TIMEOUT_SECONDS / 4
"""For one Sentinel or one node of a Cluster, so that one that hangs leaves time for the others."""

_KNOWN_ERROR_CODES = frozenset(
    {"ERR", "OOM", "LOADING", "READONLY", "NOAUTH", "WRONGPASS", "NOPERM", "MISCONF", "MASTERDOWN", "MOVED", "BUSY"}
    | {"CLUSTERDOWN"}
)
"""Server errors with their own label in metrics and logs; a server may send any text."""

RedisCommand = tuple[bytes | str | int, ...]
RedisReply = Any
"""bytes, int, None, a list of these, or the exception for an error reply."""


class RedisClient:
    """Connections to Redis, opened when needed."""

    def __init__(self, address: RedisAddress) -> None:
        """Prepare the client; connections are opened by the first command.

        Args:
            address: of the server, the Sentinels or the Cluster.

        Raises:
            OSError: the certificates that the address names cannot be read.
        """
        address.check_certificates()
        self._address = address
        self._sentinel: Sentinel | None = None
        self._resolution: asyncio.Task[bool] | None = None
        self._redis = self._connect()

    async def execute(self, commands: Sequence[RedisCommand]) -> list[RedisReply]:
        """Send commands together.

        Args:
            commands: each a tuple of name and arguments.

        Returns:
            One reply for each command, in order; error replies are exceptions in the list.

        Raises:
            RedisError: no connection could be made, or it broke.
        """
        if isinstance(self._redis, RedisCluster):
            pipeline = self._redis.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)
        # redis-py's own pipeline would double the cost of this call.
        pool = self._redis.connection_pool
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            return [await _read_reply(connection) for _ in commands]
        finally:
            await pool.release(connection)

    async def mget(self, keys: Sequence[bytes]) -> list[RedisReply]:
        """Read values: with one MGET, or with one GET for each key of a Cluster, where keys are spread over servers.

        Args:
            keys: to read.

        Returns:
            bytes or None for each key, in order.

        Raises:
            RedisError: no connection could be made, it broke, or Redis replied with an error.
            InvalidResponse: the reply does not match the keys.
        """
        if self._address.cluster_nodes:
            return await self.execute([("GET", key) for key in keys])
        [found] = await self.execute([("MGET", *keys)])
        if isinstance(found, RedisError):
            raise found
        if not isinstance(found, list) or len(found) != len(keys):
            await self.disconnect_idle()
            raise InvalidResponse
        return found

    async def ping_all(self) -> None:
        """Ping every primary of a Cluster. Does nothing for a single Redis, which commands reach directly.

        Raises:
            RedisError: one does not reply.
        """
        if isinstance(self._redis, RedisCluster):
            await self._redis.initialize()
            await self._redis.execute_command("PING", target_nodes=RedisCluster.PRIMARIES)

    async def resolve(self) -> None:
        """Look up the server's name. At most one lookup hangs, however often this call is cancelled and repeated.

        Raises:
            OSError: the name is unknown.
        """
        if self._resolution is None or self._resolution.done():
            self._resolution = asyncio.create_task(self._resolve_names())
        if not await asyncio.shield(self._resolution):
            raise OSError("unknown host")

    async def _resolve_names(self) -> bool:
        """Whether any of the host names resolves."""
        address, loop = self._address, asyncio.get_running_loop()
        nodes: Sequence[HostPort] = address.sentinels or address.cluster_nodes or [(address.host, address.port)]
        lookups = [] if address.unix_path else [loop.getaddrinfo(*node) for node in nodes]
        found = await asyncio.gather(*lookups, return_exceptions=True)
        return not found or any(isinstance(outcome, list) for outcome in found)

    async def disconnect_idle(self) -> None:
        """Close idle connections; of a Cluster, also forget what is known about its nodes."""
        if isinstance(self._redis, RedisCluster):
            # A new client: once this one has discovered nodes, it forgets those from the settings.
            old, self._redis = self._redis, self._connect()
            await old.aclose()
        else:
            await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        """Disconnect, without waiting for a server that hangs."""
        if self._resolution is not None:
            self._resolution.cancel()
        await self._redis.aclose(*([] if isinstance(self._redis, RedisCluster) else [True]))
        if self._sentinel is not None:
            await self._sentinel.aclose()

    def _connect(self) -> "Redis | RedisCluster":
        address = self._address
        common: dict[str, Any] = {"protocol": 2, "driver_info": None, "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS}
        common |= {"retry": Retry(NoBackoff(), 0), "socket_timeout": None}
        if address.tls:
            required = address.verify_mode is ssl.CERT_REQUIRED
            certificates = {"ssl_cert_reqs": address.verify_mode, "ssl_check_hostname": required}
            common |= {"ssl": True, "ssl_ca_certs": address.ca_file, **certificates}
        login: dict[str, Any] = {"username": address.username, "password": address.password}
        short_timeouts: dict[str, Any] = {
            "socket_timeout": _NODE_TIMEOUT_SECONDS,
            "socket_connect_timeout": _NODE_TIMEOUT_SECONDS,
        }
        if address.cluster_nodes:
            nodes = [ClusterNode(host, port) for host, port in address.cluster_nodes]
            return RedisCluster(startup_nodes=nodes, **common | login | short_timeouts)
        if address.sentinels:
            sentinel_options = common | short_timeouts | {"password": address.sentinel_password}
            self._sentinel = Sentinel(address.sentinels, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
            redis: Redis = self._sentinel.master_for(address.sentinel_master, **common, **login, db=address.database)
            return redis
        location: dict[str, Any] = {"host": address.host, "port": address.port, "unix_socket_path": address.unix_path}
        return Redis(**location, **common, **login, db=address.database)


async def _read_reply(connection: AbstractConnection) -> RedisReply:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


def error_reason(error: BaseException, otherwise: str) -> str:
    """A label for a failure, for metrics and logs. It never contains text from the server.

    Args:
        error: what was raised.
        otherwise: the label for an error that has none of its own.

    Returns:
        timeout, protocol, tls, `server_` with a known error code, server_other, or `otherwise`.
    """
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, InvalidResponse | UnicodeDecodeError):
        return "protocol"
    if isinstance(error.__context__, ssl.SSLError):
        return "tls"
    code = getattr(error, "status_code", None) or str(error).split(" ", 1)[0]
    if code in _KNOWN_ERROR_CODES:
        return f"server_{code.lower()}"
    return "server_other" if isinstance(error, ResponseError) else otherwise
