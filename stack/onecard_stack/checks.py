"""Checks before a start. Every error is one line that says what to do."""

import shutil
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from onecard.models import folders, model_files
from onecard_stack import file_owners
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
MIN_FREE_MB = 300
"""Least free space for logs and run files, in MB."""


class CheckError(Exception):
    """The stack cannot run like this. The message says what to change."""


def ports(processes: Iterable[Process]) -> None:
    """Check that every process can have its port.

    Args:
        processes: the process table, before any of them is started.

    Raises:
        CheckError: two of them have the same port, or a port is in use.
    """
    taken: dict[int, str] = {}
    for process in processes:
        if not process.port:
            continue
        variable = PORT_VARIABLES[process.name]
        if other := taken.get(process.port):
            raise CheckError(
                f"{variable} and {PORT_VARIABLES[other]} are both {process.port}. Set one of them to another port."
            )
        taken[process.port] = process.name
        try:
            _bind(process.host, process.port)
        except OSError as error:
            listener = _describe_listener(process.port)
            reason = (
                f"is taken{listener}" if listener or "in use" in str(error) else f"cannot be had ({error.strerror})"
            )
            raise CheckError(
                f"Port {process.port} for {process.name} {reason}. "
                f"Stop what uses it, or set {variable} to another port."
            ) from None


def host(address: str) -> None:
    """Check that a server on `address` can be reached from this machine.

    Args:
        address: IP address or name to listen on; `0.0.0.0` and `::` for all.

    Raises:
        CheckError: it cannot. For `::` this is checked, because binding to it works even without IPv6.
    """
    reached = urlsplit(reachable_url(address, 0)).hostname or address
    try:
        _bind(reached, 0)
    except OSError as error:
        hint = " (this machine has no IPv6)" if address == "::" else ""
        raise CheckError(
            f"HOST={address} cannot be had: {error.strerror}{hint}. Set HOST to an address of this machine: 127.0.0.1, "
            "or 0.0.0.0 for all that it has."
        ) from None


def _bind(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _describe_listener(port: int) -> str:
    """Name the process that listens on `port`, if this user may see it."""
    try:
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.pid and one.laddr and one.laddr.port == port:
                return f" by process {one.pid} ({psutil.Process(one.pid).name()})"
    except psutil.Error:
        pass
    return ""


def key_in_public(settings: StackSettings) -> None:
    """Check that a gateway which other machines can reach asks for a key, and the LLM service too.

    Args:
        settings: the stack's settings.

    Raises:
        CheckError: there is no `API_KEY`. Keys in a file are not enough, because the LLM service does not read them.
    """
    # Imported here, because it takes half the time of --help.
    from onecard.web import server

    try:
        server.require_key_in_public(settings)
    except SystemExit as error:
        raise CheckError(str(error)) from None


def disk(folder: Path, needed_mb: float = MIN_FREE_MB, purpose: str = "logs") -> None:
    """Check that a folder can be written to and has enough free space. Creates it if needed.

    Args:
        folder: the folder.
        needed_mb: required space, in MB.
        purpose: what the space is for, for the error message.

    Raises:
        CheckError: it has less free space, or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free_mb = shutil.disk_usage(folder).free / 1e6
        trial = folder / ".writable"
        trial.write_bytes(b"\0" * 4096)
        trial.unlink()
    except OSError as error:
        raise CheckError(
            f"Cannot write to {folder} ({error.strerror}). Free some space there, or set another folder."
        ) from None
    if free_mb < needed_mb:
        raise CheckError(
            f"The disk of {folder} is full: {free_mb:.0f} MB free, {needed_mb:.0f} MB needed for {purpose}. "
            "Free some space."
        )


def owned_by_user(home: Path) -> None:
    """Check that this user owns the files of earlier runs in the stack's folder.

    Args:
        home: the stack's folder, `ONECARD_HOME`.

    Raises:
        CheckError: another user owns some; the message names them, and the command to type.
    """
    foreign = file_owners.foreign_files([home, home / "run", home / "logs"])
    if foreign:
        raise CheckError(
            f"{file_owners.ownership_message(foreign, home)} (once that user has stopped what runs there)."
        )


def logs(folder: Path, names: Iterable[str]) -> None:
    """Create the logs that are missing, readable only by their owner, and check that all can be written.

    Args:
        folder: the folder of all logs.
        names: names of the processes.

    Raises:
        CheckError: one cannot be written.
    """
    path = folder
    try:
        log_files.make_private(folder)
        for path in [folder / f"{name}.log" for name in names]:
            path.open("ab").close()
            path.chmod(log_files.PRIVATE_FILE)
    except OSError as error:
        raise CheckError(
            f"{error.filename or path} cannot be written ({error.strerror}). Remove it, or make it yours."
        ) from None


def model_folders(settings: StackSettings) -> dict[folders.ModelKind, folders.ModelFolder]:
    """Find the model folders that the services will load, and check that each is complete.

    Args:
        settings: the stack's settings.

    Returns:
        The folder of the model, or of its stand-in, by kind.

    Raises:
        CheckError: one is missing or broken.
    """
    found = {}
    for kind, name in settings.models.items():
        try:
            folder = folders.find(kind, name, settings.model_cache_path)
        except SystemExit as error:
            raise CheckError(str(error)) from None
        if reason := model_files.integrity_error(folder.path):
            raise CheckError(f"Model folder {folder.path} is broken: {reason}. Run 'make models' to fetch it anew.")
        found[kind] = folder
    return found


def uncorrupted(wrong: list[Path]) -> None:
    """Raise an error if model files differ from those that were fetched.

    Args:
        wrong: files with a wrong digest. The message names the folder of the first.

    Raises:
        CheckError: there are some.
    """
    if wrong:
        names = ", ".join(sorted({path.name for path in wrong}))
        raise CheckError(
            f"Model folder {wrong[0].parent} is damaged: {names} changed after it was fetched (its SHA-256 is another "
            "one). Run 'make models' to fetch it anew."
        )
