"""Is a part ready? And a stack: which of its parts?"""

import socket
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx

from onecard_stack.processes import redis_password
from onecard_stack.processes.process_table import Process
from review_service.heartbeat import is_alive

TIMEOUT_SECONDS = 2.0


def is_ready(part: Process) -> bool:
    """The part can do its work now; of one that listens nowhere and has no heartbeat, supervisord alone knows."""
    if part.heartbeat is not None:
        return is_alive(part.heartbeat)
    if not part.port:
        return True
    if part.health is None:
        return _redis_answers(part)
    try:
        return httpx.get(part.url + part.health, timeout=TIMEOUT_SECONDS, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def all_ready(parts: list[Process]) -> dict[str, bool]:
    """Readiness by name, asked for at the same time."""
    with ThreadPoolExecutor(len(parts)) as pool:
        answers = pool.map(is_ready, parts)
        return {part.name: answer for part, answer in zip(parts, answers, strict=True)}


def _redis_answers(part: Process) -> bool:
    """Redis lets us in, and answers."""
    try:
        password = part.password_file and redis_password.read_password(part.password_file)
        with socket.create_connection((part.host, part.port), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            with connection.makefile("rb") as answers:
                return answers.readline(64) == b"+OK\r\n" and answers.readline(64) == b"+PONG\r\n"
    except OSError:
        return False
