"""Is a part ready? And a stack: which of its parts?"""

import socket
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx

from onecard_stack.table import Process
from review_service.heartbeat import alive

SECONDS = 2.0


def ready(part: Process) -> bool:
    """The part can do its work now; of one that listens nowhere and has no heartbeat, supervisord alone knows."""
    if part.heartbeat is not None:
        return alive(part.heartbeat)
    if not part.port:
        return True
    if part.health is None:
        return _pong(part.port)
    try:
        return httpx.get(part.url + part.health, timeout=SECONDS, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def all_ready(parts: list[Process]) -> dict[str, bool]:
    """Readiness by name, asked for at the same time."""
    with ThreadPoolExecutor(len(parts)) as pool:
        answers = pool.map(ready, parts)
        return {part.name: answer for part, answer in zip(parts, answers, strict=True)}


def _pong(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
