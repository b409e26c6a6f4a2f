"""Services that are not there, not found, mute, or not who they say they are."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiohttp import ClientTimeout, ThreadedResolver
from aiohttp.abc import ResolveResult

from gateway.upstream import http_client
from gateway.upstream.connection import NoResponse
from gateway.upstream.http_client import Origin
from tests.gateway.socket_services import WHOLE, fake_service, open_connections, read, respond_at_once


@pytest.fixture
def mute() -> Iterator[int]:
    """A port of 127.0.0.2 at which the system answers nobody any more: nobody accepts there."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.2", 0), backlog=0))
        for _ in range(4):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(listening.getsockname())
        yield int(listening.getsockname()[1])


def found(host: str, port: int, address: str) -> ResolveResult:
    """What a name leads to."""
    return ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)


async def test_nobody_listens_or_takes_the_connection(mute: int) -> None:
    """Refused at once, or left waiting for no longer than the limit."""
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        nowhere = [("127.0.0.1", gone.getsockname()[1]), ("127.0.0.2", mute), ("no.such.host.invalid", 80)]
        async with open_connections(0.3) as connections:
            for host, port in nowhere:
                with pytest.raises(NoResponse):
                    await read(connections, Origin.of(f"http://{host}:{port}"))


async def test_a_name_is_looked_up_once_for_all_who_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a name server that is slower than anybody waits; what it said is used while it is asked again, and when it is
    away. Each crowd is larger than the one before: the connections that there are need no look-up.
    """
    looked_up: list[str] = []
    responds = asyncio.Event()

    async def look_up(_: ThreadedResolver, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        looked_up.append(host)
        await responds.wait()
        if is_away:
            raise OSError("no name server")
        return [found(host, port, "127.0.0.1")]

    is_away = False
    monkeypatch.setattr(ThreadedResolver, "resolve", look_up)
    monkeypatch.setattr(http_client, "DNS_TTL_SECONDS", -1)  # Every new connection asks.
    async with fake_service(WHOLE["length"]) as (origin, _), open_connections(0.2) as connections:
        named = Origin.of(f"http://service:{origin.url.port}")
        refused = await asyncio.gather(*(read(connections, named) for _ in range(30)), return_exceptions=True)
        assert {type(each) for each in refused} == {NoResponse}
        assert looked_up == ["service"]
        # From here on nobody is to be refused: a busy machine may take its time to connect.
        monkeypatch.setattr(connections, "_timeout", ClientTimeout(connect=10))
        responds.set()
        assert await asyncio.gather(*(read(connections, named) for _ in range(30))) == [b"hello"] * 30
        responds.clear()
        before = len(looked_up)
        for crowd in (60, 90):
            assert await asyncio.gather(*(read(connections, named) for _ in range(crowd))) == [b"hello"] * crowd
            assert len(looked_up) == before + 1
        is_away = True
        responds.set()
        assert await asyncio.gather(*(read(connections, named) for _ in range(120))) == [b"hello"] * 120
        assert len(looked_up) > before + 1


async def test_a_name_that_nobody_knows_may_be_known_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up that fails, in whatever way, is no connection, and is not kept."""
    faults: list[Exception] = [OSError("away"), UnicodeError("no name")]

    async def look_up(_: ThreadedResolver, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        if faults:
            raise faults.pop()
        return [found(host, port, "127.0.0.1")]

    monkeypatch.setattr(ThreadedResolver, "resolve", look_up)
    async with fake_service(WHOLE["length"]) as (origin, _), open_connections() as connections:
        named = Origin.of(f"http://service:{origin.url.port}")
        for _ in range(2):
            with pytest.raises(NoResponse):
                await read(connections, named)
        assert await read(connections, named) == b"hello"


async def test_an_address_that_is_mute_costs_no_request(monkeypatch: pytest.MonkeyPatch, mute: int) -> None:
    """Where a name has several."""

    async def look_up(_: ThreadedResolver, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [found(host, port, address) for address in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(ThreadedResolver, "resolve", look_up)
    async with await asyncio.start_server(respond_at_once, "127.0.0.1", mute), open_connections() as connections:
        for _ in range(4):
            assert await read(connections, Origin.of(f"http://service:{mute}")) == b"hello"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of localhost, by nobody in particular, and with its key."""
    file = tmp_path / "certificate.pem"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [*made, *names, "-keyout", str(file), "-out", str(tmp_path / "own.pem")], check=True, capture_output=True
    )
    file.write_bytes(file.read_bytes() + (tmp_path / "own.pem").read_bytes())
    return file


async def test_a_service_behind_tls_is_who_it_says_it_is(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its certificate is checked, against the system's and those that SSL_CERT_FILE names."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async with (
        await asyncio.start_server(respond_at_once, "localhost", 0, ssl=context) as server,
        open_connections() as connections,
    ):
        address = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(NoResponse):
            await read(connections, Origin.of(address))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert await read(connections, Origin.of(address)) == b"hello"
