"""A Docker engine for the tests: the one that runs, else one that is started for them and stopped after them."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

START_SECONDS = 60
TOOLS = {"dockerd": "docker.io", "docker-compose": "docker-compose", "debootstrap": "debootstrap"}
"""What Debian's packages bring, and their names."""


class EngineUnavailable(Exception):
    """The tests cannot run here; the message says what is missing."""


def install() -> None:
    """Install Docker from Debian's packages where no engine is, and say so; that takes root and apt-get.

    Raises:
        Impossible: it fails.
    """
    # Often there is the client alone.
    if shutil.which("dockerd") or shutil.which("apt-get") is None or os.geteuid() != 0 or _answers():
        return
    packages = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    print(f"\nThere is no Docker engine here: apt-get install {' '.join(packages)}", flush=True)
    options = ["--yes", "--no-install-recommends"]
    try:
        run(["apt-get", "update"])
        run(["apt-get", "install", *options, *packages], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    except AssertionError as error:
        raise EngineUnavailable(str(error)) from None


@contextmanager
def running_engine() -> Iterator[None]:
    """An engine that answers.

    Raises:
        Impossible: there is none, and none can be started.
    """
    if shutil.which("docker") is None:
        raise EngineUnavailable(f"there is no Docker here: apt-get install {' '.join(TOOLS.values())}")
    if _answers():
        yield
        return
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        raise EngineUnavailable("no Docker engine runs, and starting one needs dockerd and root")
    with tempfile.TemporaryFile() as log:
        engine = subprocess.Popen(["dockerd"], stdout=log, stderr=log)
        try:
            _wait(engine)
            yield
        finally:
            engine.terminate()
            engine.wait(60)


def _wait(engine: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers():
        if engine.poll() is not None or time.monotonic() > deadline:
            raise EngineUnavailable("dockerd does not start here; 'dockerd' by itself says why")
        time.sleep(0.5)


def _answers() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True).returncode == 0


def compose_command() -> list[str]:
    """Compose v2, else docker-compose 1.29.

    Raises:
        Impossible: neither is installed.
    """
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise EngineUnavailable("there is no Compose here: apt-get install docker-compose")


def docker(*arguments: str, check: bool = True) -> str:
    """What `docker` with these arguments prints, both streams."""
    return run(["docker", *arguments], check=check)


def run(command: Sequence[str], *, check: bool = True, **options: object) -> str:
    """Output of a command, both streams.

    Raises:
        AssertionError: it fails; the message ends with what it said last.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)  # type: ignore[call-overload]
    output: str = done.stdout
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}\n{output[-4000:]}")
    return output
