"""What the benchmarks' commands have in common."""

import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import typer

from bench import machine
from bench.peers import InstallFailed
from bench.servers import Contender, ContenderServer, ServerFailed


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


def parse_numbers(given: str) -> list[int]:
    """`1,8,32` → [1, 8, 32].

    Raises:
        typer.BadParameter: that is not what it is.
    """
    try:
        found = [int(part) for part in given.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise typer.BadParameter(f"'{given}' is not a list of whole numbers from 1, such as 1,8,32")
    return found


def start_server(stack: ExitStack, contender: Contender) -> ContenderServer:
    """A server that is ready; `stack` stops it."""
    say(f"Starting {contender.name}: {contender.what}")
    server = stack.enter_context(ContenderServer(contender))
    server.wait_ready()
    return server


def allow_connections() -> None:
    """As many open files as the system lets this process and its servers have: a thousand streams are two thousand."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def orderly_exit() -> Iterator[None]:
    """Ctrl-C, SIGTERM and failures end the command with a line; whatever is inside has stopped its servers by then.

    Raises:
        typer.Exit: it was interrupted (130), or a server or an installation failed (1).
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
