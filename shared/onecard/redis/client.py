"""redis-py, set up for a cache: one server, one that Sentinels name, or a Cluster.

It knows addresses, TLS, logins, connections and redirections; what is asked of it here is a list of commands in one
pipeline, or a list of keys. It never repeats a command and never waits by itself: patience is `channel`'s.
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
"""Longest attempt to connect, name look-up, Sentinels and TLS included. No request waits for it."""
_NODE_TIMEOUT_SECONDS = CONNECT_TIMEOUT_SECONDS / 4
"""For one Sentinel, or one node of a Cluster, so that one that hangs leaves time for the others."""

_KNOWN_ERROR_CODES = frozenset(
    {"ERR", "OOM", "LOADING", "READONLY", "NOAUTH", "WRONGPASS", "NOPERM", "MISCONF", "MASTERDOWN", "MOVED", "BUSY"}
    | {"CLUSTERDOWN"}
)
"""Errors that are told apart in metrics and logs; a server may answer with anything."""

RedisCommand = tuple[bytes | str | int, ...]
RedisReply = Any
"""bytes, int, None, a list of those, or the exception that the server's error became."""


class RedisClient:
    """Connections to a Redis, made when they are needed."""

    def __init__(self, address: RedisAddress) -> None:
        """Connect when asked.

        Raises:
            OSError: the certificates that the address names cannot be read.
        """
        address.check_certificates()
        self._address = address
        self._sentinel: Sentinel | None = None
        self._resolution: asyncio.Task[bool] | None = None
        self._redis = self._connect()

    async def execute(self, commands: Sequence[RedisCommand]) -> list[RedisReply]:
        """The replies to all `commands`, which go out together.

        Raises:
            RedisError: there is no connection, or it broke.
        """
        if isinstance(self._redis, RedisCluster):
            pipeline = self._redis.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)
        # What redis-py's pipeline does besides costs as much as all of this.
        pool = self._redis.connection_pool
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            return [await _read_reply(connection) for _ in commands]
        finally:
            await pool.release(connection)

    async def mget(self, keys: Sequence[bytes]) -> list[RedisReply]:
        """What lies under each key: in one MGET, but for a Cluster, where keys lie on many servers.

        Raises:
            RedisError: there is no connection, it broke, Redis refuses, or its answer is not one to these keys.
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
        """Have every server of a Cluster answer; any other Redis is reached by what is asked of it.

        Raises:
            RedisError: one does not.
        """
        if isinstance(self._redis, RedisCluster):
            await self._redis.initialize()
            await self._redis.execute_command("PING", target_nodes=RedisCluster.PRIMARIES)

    async def resolve(self) -> None:
        """Look the server's name up. One look-up hangs at most, however often this is tried and given up.

        Raises:
            OSError: the name is unknown.
        """
        if self._resolution is None or self._resolution.done():
            self._resolution = asyncio.create_task(self._resolve_names())
        if not await asyncio.shield(self._resolution):
            raise OSError("unknown host")

    async def _resolve_names(self) -> bool:
        """Whether any of the names leads anywhere."""
        address, loop = self._address, asyncio.get_running_loop()
        nodes: Sequence[HostPort] = address.sentinels or address.cluster_nodes or [(address.host, address.port)]
        looks = [] if address.unix_path else [loop.getaddrinfo(*node) for node in nodes]
        found = await asyncio.gather(*looks, return_exceptions=True)
        return not found or any(isinstance(one, list) for one in found)

    async def disconnect_idle(self) -> None:
        """Give up the connections that nobody waits on; of a Cluster, also what is known about it."""
        if isinstance(self._redis, RedisCluster):
            # A new one, for this one has forgotten the nodes that settings name, once it has found others.
            old, self._redis = self._redis, self._connect()
            await old.aclose()
        else:
            await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        """Disconnect; what a server that hangs has not read is not waited for."""
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
        brief: dict[str, Any] = {
            "socket_timeout": _NODE_TIMEOUT_SECONDS,
            "socket_connect_timeout": _NODE_TIMEOUT_SECONDS,
        }
        if address.cluster_nodes:
            nodes = [ClusterNode(host, port) for host, port in address.cluster_nodes]
            return RedisCluster(startup_nodes=nodes, **common | login | brief)
        if address.sentinels:
            asking = common | brief | {"password": address.sentinel_password}
            self._sentinel = Sentinel(address.sentinels, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
            redis: Redis = self._sentinel.master_for(address.sentinel_master, **common, **login, db=address.database)
            return redis
        where: dict[str, Any] = {"host": address.host, "port": address.port, "unix_socket_path": address.unix_path}
        return Redis(**where, **common, **login, db=address.database)


async def _read_reply(connection: AbstractConnection) -> RedisReply:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


def error_reason(error: BaseException, otherwise: str) -> str:
    """Why there was no answer, for metrics and logs: nothing that a server says gets into them."""
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
