"""Gathers the facts about this machine: sockets, folders, memory, Redis, time."""

import asyncio
import ctypes
import os
import shutil
import socket
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil

import onecard
from onecard.redis.address import RedisAddress
from onecard_stack.doctor.facts import Clock, Disk, Port
from onecard_stack.processes import log_files
from onecard_stack.processes.process_table import Process
from onecard_stack.settings import StackSettings, reachable_url

PORT_VARIABLES = {
    "gateway": "GATEWAY_PORT",
    "llm": "VLLM_PORT",
    "sentiment": "SENTIMENT_PORT",
    "embedding": "EMBEDDING_PORT",
    "review": "REVIEW_PORT",
    "redis": "REDIS_PORT",
}
REDIS_SECONDS = 2.0
"""How long the doctor waits for Redis."""
_CLOCK_UNSYNCHRONISED = 5
"""TIME_ERROR, an answer of adjtimex(2)."""


def ports(processes: Iterable[Process], own_pids: Collection[int] = ()) -> list[Port]:
    """Try to bind the port of each process.

    Args:
        processes: the process table.
        own_pids: ids of the processes of the stack that runs here; a port that one of them has counts as free.

    Returns:
        The ports, in the order of the table.
    """
    return [_port(process, own_pids) for process in processes if process.port]


def _port(process: Process, own_pids: Collection[int]) -> Port:
    port = Port(process.name, process.port, PORT_VARIABLES[process.name])
    error = bind_error(process.host, process.port)
    if error is None:
        return port
    pid, listener = _listener(process.port)
    if pid in own_pids:
        return port
    return Port(port.process, port.number, port.variable, error, listener, "in use" in error)


def bind_error(host: str, port: int) -> str | None:
    """Try to bind an address.

    Args:
        host: IP address or name.
        port: 0 for any.

    Returns:
        Why it cannot be bound; None if it can.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.strerror or str(error)
    return None


def host_error(address: str) -> str | None:
    """Why no server can listen on HOST; None if one can."""
    return bind_error(urlsplit(reachable_url(address, 0)).hostname or address, 0)


def _listener(port: int) -> tuple[int | None, str]:
    """Id and description of the process that listens on `port`, if this user may see it."""
    with suppress(psutil.Error):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.pid and one.laddr and one.laddr.port == port:
                return one.pid, f" by process {one.pid} ({psutil.Process(one.pid).name()})"
    return None, ""


def key_error(settings: StackSettings) -> str | None:
    """Check that the gateway and the LLM service are not open to other machines without a key.

    Args:
        settings: the stack's settings. Keys in a file are not enough, because the LLM service does not read them.

    Returns:
        What to change; None if they are not open.
    """
    # Imported here, because it takes half the time of --help.
    from onecard.web import server

    try:
        server.require_key_in_public(settings)
    except SystemExit as error:
        return str(error)
    return None


def disk(folder: Path) -> Disk:
    """Write a trial file into a folder, which is created if needed, and measure the free space there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".writable-{os.getpid()}"
        trial.write_bytes(b"\0" * 4096)
        trial.unlink()
        return Disk(folder, shutil.disk_usage(folder).free / 1e6)
    except OSError as error:
        return Disk(folder, error=error.strerror or str(error))


def logs_error(folder: Path, names: Iterable[str]) -> str | None:
    """Create the logs that are missing, readable only by their owner.

    Args:
        folder: the folder of all logs.
        names: names of the processes.

    Returns:
        Which one cannot be written, and what to do; None if all can.
    """
    path = folder
    try:
        log_files.make_private(folder)
        for path in [folder / f"{name}.log" for name in names]:
            path.open("ab").close()
            path.chmod(log_files.PRIVATE_FILE)
    except OSError as error:
        return f"{error.filename or path} cannot be written ({error.strerror}). Remove it, or make it yours."
    return None


def redis_error(address: RedisAddress) -> str | None:
    """Read one key of a Redis.

    Args:
        address: of the server, the Sentinels or the Cluster.

    Returns:
        Why it gives no answer, without address and password; None if it does.
    """
    # Imported here, because it takes a while, and few stacks have another Redis than their own.
    from onecard.redis.client import RedisClient

    async def read() -> str | None:
        client = RedisClient(address)
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                [reply] = await client.execute([("GET", "onecard:doctor")])
        finally:
            await client.close()
        return str(reply) if isinstance(reply, Exception) else None

    try:
        return asyncio.run(read())
    except TimeoutError:
        return f"no answer within {REDIS_SECONDS:g} s"
    except Exception as error:  # redis-py and the system raise many kinds, and one more is no reason to end.
        return type(error).__name__


def clock() -> Clock:
    """This machine's time, and what the kernel says about it."""
    installed = Path(onecard.__file__).stat().st_mtime
    try:
        answer = ctypes.CDLL(None).adjtimex((ctypes.c_byte * 512)())  # A zeroed `struct timex` only asks.
    except (OSError, AttributeError):
        answer = -1
    return Clock(time.time(), installed, None if answer < 0 else answer != _CLOCK_UNSYNCHRONISED)
