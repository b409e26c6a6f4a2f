"""Where Redis is, as settings say it. Pure."""

import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

_CERTIFICATES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


@dataclass(frozen=True)
class Address:
    """A Redis server and how to introduce oneself to it."""

    host: str = "127.0.0.1"
    port: int = 6379
    unix_path: str | None = None
    """A socket file, in place of host and port."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    tls: bool = False
    certificates: ssl.VerifyMode = ssl.CERT_REQUIRED
    """How the server's certificate is checked."""
    ca_file: str | None = None
    """Certificates to trust, in place of the system's."""

    def ssl_context(self) -> ssl.SSLContext | None:
        """The context to connect with; None without TLS. Reads `ca_file`.

        Raises:
            OSError: the file is not there, or holds no certificate.
        """
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=self.ca_file)
        context.check_hostname = self.certificates is ssl.CERT_REQUIRED
        context.verify_mode = self.certificates
        return context


def parse_url(url: str) -> Address:
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
    if needs not in _CERTIFICATES:
        raise ValueError("ssl_cert_reqs is none, optional or required")
    try:
        port = parts.port or 6379
    except ValueError:
        raise ValueError("the port of a Redis address is a number up to 65535") from None
    return Address(
        host=parts.hostname or "",
        port=port,
        unix_path=unquote(parts.path) if unix else None,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        database=int(database),
        tls=parts.scheme == "rediss",
        certificates=_CERTIFICATES[needs],
        ca_file=query.get("ssl_ca_certs"),
    )
