"""Is a part ready? And a stack: which of its parts?"""

import socket
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx

from onecard_stack import redis_login
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
        return _pong(part)
    try:
        return httpx.get(part.url + part.health, timeout=SECONDS, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def all_ready(parts: list[Process]) -> dict[str, bool]:
    """Readiness by name, asked for at the same time."""
    with ThreadPoolExecutor(len(parts)) as pool:
        answers = pool.map(ready, parts)
        return {part.name: answer for part, answer in zip(parts, answers, strict=True)}


def _pong(part: Process) -> bool:
    """Redis lets us in, and answers."""
    try:
        password = part.login and redis_login.password(part.login)
        with socket.create_connection((part.host, part.port), timeout=SECONDS) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            with connection.makefile("rb") as answers:
                return answers.readline(64) == b"+OK\r\n" and answers.readline(64) == b"+PONG\r\n"
    except OSError:
        return False
