"""Functions that all benchmark commands share."""

import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NoReturn

import typer

from bench import machine
from bench.peers import InstallFailed
from bench.servers import Contender, ContenderServer, ServerFailed


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, flush=True)


def parse_numbers(given: str) -> list[int]:
    """Parse a list of numbers.

    Args:
        given: whole numbers from 1, separated by commas.

    Returns:
        The numbers: `1,8,32` becomes [1, 8, 32].

    Raises:
        typer.BadParameter: it is no such list.
    """
    try:
        found = [int(part) for part in given.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise typer.BadParameter(f"'{given}' is not a list of whole numbers from 1, such as 1,8,32")
    return found


def start_server(stack: ExitStack, contender: Contender) -> ContenderServer:
    """Start a server and wait until it is ready. `stack` stops it."""
    say(f"Starting {contender.name}: {contender.what}")
    server = stack.enter_context(ContenderServer(contender))
    server.wait_ready()
    return server


def allow_connections() -> None:
    """Raise the limit of open files to the maximum: a thousand streams through the gateway need two thousand."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def exit_with_failure() -> NoReturn:
    """End the command with exit code 1."""
    raise typer.Exit(1)


@contextmanager
def orderly_exit() -> Iterator[None]:
    """End the command with one line after Ctrl-C, SIGTERM or a failure. Servers started inside are stopped by then.

    Yields:
        Nothing.

    Raises:
        typer.Exit: the command was interrupted (130), or a server or an installation failed (1).
    """
    if machine.busy():
        say("Something else is using this machine: expect figures that are too low and that vary.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        say("\nInterrupted; every server is stopped.")
        raise typer.Exit(130) from None
    except (ServerFailed, InstallFailed, subprocess.CalledProcessError) as error:
        say(f"Stopped: {error}")
        raise typer.Exit(1) from None
