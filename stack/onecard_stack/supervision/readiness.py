"""Checks whether processes are ready."""

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx

from onecard_stack.processes import redis_password
from onecard_stack.processes.process_table import Process
from review_service.heartbeat import is_alive

TIMEOUT_SECONDS = 2.0
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Health routes are asked over plain HTTP; reading this machine's certificates for each look takes 20 ms."""


def is_ready(process: Process) -> bool:
    """Check whether a process can work now.

    Args:
        process: an entry of the process table.

    Returns:
        Whether its heartbeat is recent, its health route answers 200, or Redis answers PING, within
        `TIMEOUT_SECONDS`. Always True for a process with neither port nor heartbeat: only supervisord can say
        whether that one runs.
    """
    if process.heartbeat is not None:
        return is_alive(process.heartbeat)
    if not process.port:
        return True
    if process.health is None:
        return _redis_answers(process)
    url = process.url + process.health
    try:
        answer = httpx.get(url, timeout=TIMEOUT_SECONDS, trust_env=False, verify=_NO_CERTIFICATES)
        return answer.status_code == 200
    except httpx.HTTPError:
        return False


def all_ready(processes: list[Process]) -> dict[str, bool]:
    """Check all processes at the same time.

    Args:
        processes: entries of the process table, at least one.

    Returns:
        Whether each process is ready, by name.
    """
    with ThreadPoolExecutor(len(processes)) as pool:
        answers = pool.map(is_ready, processes)
        return {process.name: answer for process, answer in zip(processes, answers, strict=True)}


def _redis_answers(process: Process) -> bool:
    """Check that Redis accepts the password and answers PING."""
    try:
        password = process.password_file and redis_password.read_password(process.password_file)
        with socket.create_connection((process.host, process.port), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            with connection.makefile("rb") as answers:
                return answers.readline(64) == b"+OK\r\n" and answers.readline(64) == b"+PONG\r\n"
    except OSError:
        return False
