"""What can be known to fail before anything is started. Every complaint is one line that says what to do."""

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
    """The stack cannot run like this; the message says what to change."""


def ports(parts: Iterable[Process]) -> None:
    """Every part can have its port.

    Raises:
        CheckError: two parts want the same one, or somebody listens there.
    """
    taken: dict[int, str] = {}
    for part in parts:
        if not part.port:
            continue
        variable = PORT_VARIABLES[part.name]
        if other := taken.get(part.port):
            raise CheckError(
                f"{variable} and {PORT_VARIABLES[other]} are both {part.port}. Set one of them to another port."
            )
        taken[part.port] = part.name
        try:
            _bind(part.host, part.port)
        except OSError as error:
            who = _describe_listener(part.port)
            reason = f"is taken{who}" if who or "in use" in str(error) else f"cannot be had ({error.strerror})"
            raise CheckError(
                f"Port {part.port} for {part.name} {reason}. Stop what uses it, or set {variable} to another port."
            ) from None


def host(address: str) -> None:
    """What listens on `address` can be reached from this machine.

    Raises:
        CheckError: it cannot: `::` can be listened on also where there is no IPv6, and nobody gets there.
    """
    reached = urlsplit(reachable_url(address, 0)).hostname or address
    try:
        _bind(reached, 0)
    except OSError as error:
        more = " (this machine has no IPv6)" if address == "::" else ""
        raise CheckError(
            f"HOST={address} cannot be had: {error.strerror}{more}. Set HOST to an address of this machine: 127.0.0.1, "
            "or 0.0.0.0 for all that it has."
        ) from None


def _bind(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _describe_listener(port: int) -> str:
    """Who listens on `port`, as far as this user may see it."""
    try:
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.pid and one.laddr and one.laddr.port == port:
                return f" by process {one.pid} ({psutil.Process(one.pid).name()})"
    except psutil.Error:
        pass
    return ""


def key_in_public(settings: StackSettings) -> None:
    """A gateway that is reachable from outside has a key; so has the LLM service beside it, which takes no named ones.

    Raises:
        CheckError: it has none.
    """
    # Half of what --help would take otherwise.
    from onecard.web import server

    try:
        server.require_key_in_public(settings)
    except SystemExit as refusal:
        raise CheckError(str(refusal)) from None


def disk(folder: Path, needed_mb: float = MIN_FREE_MB, purpose: str = "logs") -> None:
    """The disk under `folder` has room.

    Raises:
        CheckError: it has less than `needed_mb` MB, or cannot be written to.
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
    """What an earlier run has left in the stack's folder is this user's, so that this run can go on with it.

    Raises:
        CheckError: some of it is another user's; the message names it, and what to type.
    """
    foreign = file_owners.foreign_files([home, home / "run", home / "logs"])
    if foreign:
        raise CheckError(
            f"{file_owners.ownership_message(foreign, home)} (once that user has stopped what runs there)."
        )


def logs(folder: Path, names: Iterable[str]) -> None:
    """Each part can write its log; nobody else can read it.

    Raises:
        CheckError: one cannot.
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
    """The folders that the parts will load, each looked at.

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
    """No file of a model is another than the one that was fetched.

    Raises:
        CheckError: some are.
    """
    if wrong:
        names = ", ".join(sorted({path.name for path in wrong}))
        raise CheckError(
            f"Model folder {wrong[0].parent} is damaged: {names} changed after it was fetched (its SHA-256 is another "
            "one). Run 'make models' to fetch it anew."
        )
