"""One deployment for all tests of this folder. `make test-compose` runs them; other runs do not collect them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.compose import base_images
from tests.compose.deployment import BUILT, FIGURES, Deployment, deploy
from tests.compose.engine import EngineUnavailable, compose_command, docker, install, running_engine


@pytest.fixture(scope="session")
def on_local_base(pytestconfig: pytest.Config) -> Iterator[bool]:
    """A Docker engine runs; True if images stand on a Debian that was made here, as none can be pulled."""
    figures = pytestconfig.stash.setdefault(FIGURES, [])
    capture: Any = pytestconfig.pluginmanager.getplugin("capturemanager")
    with ExitStack() as closing:
        try:
            with capture.global_and_fixture_disabled():
                install()
            closing.enter_context(running_engine())
            compose_command()
            local = not base_images.can_pull()
            if local:
                started = time.monotonic()
                base_images.make_local()
                figures.append(f"base: {time.monotonic() - started:.0f} s")
        except EngineUnavailable as reason:
            pytest.skip(f"the containers are not tested: {reason}")
        yield local


@pytest.fixture(scope="session")
def project(on_local_base: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The project with its images built, nothing started yet; all of it is removed at the end."""
    made = deploy(tmp_path_factory.mktemp("deployment"), compose_command(), on_local_base=on_local_base)
    made.down(volumes=True)
    try:
        made.build()
        yield made
    finally:
        made.down(volumes=True)


@pytest.fixture(scope="session")
def deployment(project: Deployment, model_cache: Path, request: pytest.FixtureRequest) -> Deployment:
    """The running stack on the stand-ins, which are trained outside: no image has the trainer."""
    project.give_models(model_cache)
    project.up()
    sizes = [f"{service} {_megabytes(project, service):.0f} MB" for service in (*BUILT, "redis")]
    times = [f"{name} {seconds:.0f} s" for name, seconds in project.seconds.items()]
    request.config.stash[FIGURES] += [f"images: {', '.join(sizes)}", f"times: {', '.join(times)}"]
    return project


def _megabytes(project: Deployment, service: str) -> float:
    return int(docker("image", "inspect", "--format", "{{.Size}}", project.inspect(service)["Image"])) / 1e6


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Sizes and times, for whoever writes them down."""
    for line in config.stash.get(FIGURES, []):
        terminalreporter.write_line(line)
