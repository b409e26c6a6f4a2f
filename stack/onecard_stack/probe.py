"""Is a part ready? And a stack: which of its parts?"""

import socket
from concurrent.futures import ThreadPoolExecutor

import httpx

from onecard_stack.settings import StackSettings
from onecard_stack.table import Process, url

SECONDS = 2.0


def ready(part: Process, settings: StackSettings) -> bool:
    """The part can do its work now."""
    if part.health is None:
        return _pong(part.port)
    try:
        return httpx.get(url(settings, part.port) + part.health, timeout=SECONDS, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def all_ready(parts: list[Process], settings: StackSettings) -> dict[str, bool]:
    """Readiness by name, asked for at the same time."""
    with ThreadPoolExecutor(len(parts)) as pool:
        answers = pool.map(lambda part: ready(part, settings), parts)
        return {part.name: answer for part, answer in zip(parts, answers, strict=True)}


def _pong(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
