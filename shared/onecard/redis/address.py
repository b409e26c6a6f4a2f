"""Where Redis is, as settings say it. Pure."""

import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

_VERIFY_MODES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}

HostPort = tuple[str, int]
"""Host and port of one of several servers."""


@dataclass(frozen=True)
class RedisAddress:
    """A Redis server, or several that are one, and how to introduce oneself to it."""

    host: str = "127.0.0.1"
    port: int = 6379
    unix_path: str | None = None
    """A socket file, in place of host and port."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    tls: bool = False
    verify_mode: ssl.VerifyMode = ssl.CERT_REQUIRED
    """How the server's certificate is checked."""
    ca_file: str | None = None
    """Certificates to trust, in place of the system's."""
    sentinels: tuple[HostPort, ...] = ()
    """Who knows which server is the primary, in place of host and port."""
    sentinel_master: str = "mymaster"
    """What Sentinels call the primary."""
    sentinel_password: str | None = field(default=None, repr=False)
    cluster_nodes: tuple[HostPort, ...] = ()
    """Some nodes of a Redis Cluster, in place of host and port."""
    timeout_seconds: float = 0.05
    """Longest wait of a request for an answer."""

    def check_certificates(self) -> None:
        """Read `ca_file`, if it will be needed.

        Raises:
            OSError: it is not there, or holds no certificate.
        """
        if self.tls:
            ssl.create_default_context(cafile=self.ca_file)


def parse_url(url: str) -> RedisAddress:
    """`redis://[user][:password]@host[:port][/database]`, `rediss://…` with TLS, or `unix:///path?db=0`.

    Of the query, `db`, `ssl_cert_reqs` and `ssl_ca_certs` are read, as redis-py and Celery write them; one address
    serves all of them, so that what only they know is passed over.

    Raises:
        ValueError: not such an address. The message never repeats it, since it may hold a password.
    """
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("a Redis address begins with redis://, rediss:// or unix://")
    unix = parts.scheme == "unix"
    if unix and not parts.path:
        raise ValueError("unix:// needs the path of a socket")
    if not unix and not parts.hostname:
        raise ValueError("a Redis address needs a host")
    database = query.get("db", "" if unix else parts.path.strip("/")) or "0"
    if not (database.isascii() and database.isdigit()):
        raise ValueError("the database of a Redis address is a number")
    needs = query.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if needs not in _VERIFY_MODES:
        raise ValueError("ssl_cert_reqs is none, optional or required")
    try:
        port = parts.port or 6379
    except ValueError:
        raise ValueError("the port of a Redis address is a number up to 65535") from None
    return RedisAddress(
        host=parts.hostname or "",
        port=port,
        unix_path=unquote(parts.path) if unix else None,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        database=int(database),
        tls=parts.scheme == "rediss",
        verify_mode=_VERIFY_MODES[needs],
        ca_file=query.get("ssl_ca_certs"),
    )


def parse_nodes(listed: str, default_port: int) -> tuple[HostPort, ...]:
    """`host[:port]`, several of them with commas between.

    Raises:
        ValueError: not such a list.
    """
    nodes = []
    for one in filter(None, map(str.strip, listed.split(","))):
        parts = urlsplit(f"//{one}")
        try:
            host, port = parts.hostname, parts.port or default_port
        except ValueError:
            host = None
        if not host or parts.path or parts.username is not None:
            raise ValueError("is host:port, or several of them with commas between")
        nodes.append((host, port))
    return tuple(nodes)
