"""Services that are not there, not found, mute, or not who they say they are."""

import asyncio
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import connections as pool
from gateway.http1 import NoAnswer
from gateway.origin import Origin
from tests.gateway.sockets import WHOLE, at_once, connected, read, saying


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


async def test_nobody_listens_or_takes_the_connection(mute: int) -> None:
    """Refused at once, or left waiting for no longer than the limit."""
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        nowhere = [("127.0.0.1", gone.getsockname()[1]), ("127.0.0.2", mute), ("no.such.host.invalid", 80)]
        async with connected(0.3) as connections:
            for host, port in nowhere:
                with pytest.raises(NoAnswer):
                    await read(connections, Origin(host, port, "nobody"))


async def test_a_name_is_looked_up_once_for_all_who_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a name server that is slower than anybody waits; what it said is used while it is asked again."""
    looked_up: list[str] = []

    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        looked_up.append(host)
        time.sleep(0.3)
        return [(None, None, None, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(pool, "NAME_SECONDS", 0.1)
    async with saying(WHOLE["length"]) as (origin, _), connected(0.2) as connections:
        named = replace(origin, host="service")
        refused = await asyncio.gather(*(read(connections, named) for _ in range(30)), return_exceptions=True)
        assert {type(each) for each in refused} == {NoAnswer}
        await asyncio.sleep(0.3)
        assert looked_up == ["service"]
        for _ in range(3):
            assert await asyncio.gather(*(read(connections, named) for _ in range(30))) == [b"hello"] * 30
            await asyncio.sleep(0.15)


async def test_an_address_that_is_mute_costs_no_request(monkeypatch: pytest.MonkeyPatch, mute: int) -> None:
    """Where a name has several."""

    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(None, None, None, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with await asyncio.start_server(at_once, "127.0.0.1", mute), connected() as connections:
        for _ in range(4):
            assert await read(connections, Origin("service", mute, "service")) == b"hello"


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

    async with await asyncio.start_server(at_once, "localhost", 0, ssl=context) as server, connected() as connections:
        address = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(NoAnswer):
            await read(connections, Origin.of(address))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert await read(connections, Origin.of(address)) == b"hello"
