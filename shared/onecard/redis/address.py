"""The address of Redis, parsed from settings. Pure."""

import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

_VERIFY_MODES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}

HostPort = tuple[str, int]
"""Host and port of one of several servers."""


@dataclass(frozen=True)
class RedisAddress:
    """A Redis server, Sentinel group or Cluster, with its credentials."""

    host: str = "127.0.0.1"
    port: int = 6379
    unix_path: str | None = None
    """A socket file, instead of host and port."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    tls: bool = False
    verify_mode: ssl.VerifyMode = ssl.CERT_REQUIRED
    """How the server's certificate is checked."""
    ca_file: str | None = None
    """Certificates to trust, instead of the system's."""
    sentinels: tuple[HostPort, ...] = ()
    """Sentinels that name the primary, instead of host and port."""
    sentinel_master: str = "mymaster"
    """Name of the primary at the Sentinels."""
    sentinel_password: str | None = field(default=None, repr=False)
    cluster_nodes: tuple[HostPort, ...] = ()
    """Some nodes of a Redis Cluster, instead of host and port."""
    timeout_seconds: float = 0.05
    """How long a request waits for a reply at most."""

    def check_certificates(self) -> None:
        """Read `ca_file` if TLS is on.

        Raises:
            OSError: the file is missing or holds no certificate.
        """
        if self.tls:
            ssl.create_default_context(cafile=self.ca_file)


def parse_url(url: str) -> RedisAddress:
    """Parse `redis://[user][:password]@host[:port][/database]`, `rediss://…` for TLS, or `unix:///path?db=0`.

    The query parameters `db`, `ssl_cert_reqs` and `ssl_ca_certs` have redis-py's and Celery's meaning. Others are
    ignored, because redis-py and Celery read the same address.

    Args:
        url: the address.

    Returns:
        The address.

    Raises:
        ValueError: the address is invalid. The message never repeats it, because it may contain a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # Its message quotes what stands before the host.
        raise ValueError("a Redis address cannot be read: percent-encode special characters of the password") from None
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
    verify = query.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if verify not in _VERIFY_MODES:
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
        verify_mode=_VERIFY_MODES[verify],
        ca_file=query.get("ssl_ca_certs"),
    )


def parse_nodes(nodes_text: str, default_port: int) -> tuple[HostPort, ...]:
    """Parse `host[:port]` items separated by commas.

    Args:
        nodes_text: the list; may be empty.
        default_port: for items without a port.

    Returns:
        Host and port of each item, in order.

    Raises:
        ValueError: an item is invalid. The message never repeats it, because it may contain a password.
    """
    nodes = []
    for item in filter(None, map(str.strip, nodes_text.split(","))):
        try:
            parts = urlsplit(f"//{item}")
            host, port = parts.hostname, parts.port or default_port
        except ValueError:
            host = None
        if not host or parts.path or parts.username is not None:
            raise ValueError("is host:port, or several of them with commas between")
        nodes.append((host, port))
    return tuple(nodes)
