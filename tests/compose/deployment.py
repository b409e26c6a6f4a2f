"""The stack of compose.yaml on the CPU, from a copy of the repository with an `.env` of its own."""

import json
import os
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.compose.base_images import ROOT
from tests.compose.engine import docker, run
from tests.support import LLM, free_port

PROJECT = "onecard-test"
BUILT = ("models", "sentiment", "embedding", "llm", "review", "gateway")
SERVING = ("redis", "sentiment", "embedding", "llm", "review", "worker", "schedule", "gateway")
"""What has a health check."""
LONG_RUNNING = (*SERVING, "prometheus")
SECRETS = ("API_KEY", "REDIS_PASSWORD", "HF_TOKEN")
FIGURES = pytest.StashKey[list[str]]()
"""Sizes and times, for whoever writes them down."""
START_SECONDS = 600
_FETCH_SCRIPT = """
import sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=30) as answer:
    sys.stdout.buffer.write(answer.read())
"""


@dataclass
class Deployment:
    """One Compose project."""

    folder: Path
    """The copy."""
    command: list[str]
    """Compose, with its files."""
    env: dict[str, str]
    """What is in `.env`."""
    events: list[str] = field(default_factory=list)
    """What happened during the first start, in order: `start redis`, `health_status: healthy redis`, `die models`."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long building and starting took."""

    @property
    def key(self) -> str:
        """The key of the gateway and of the LLM service."""
        return self.env["API_KEY"]

    @property
    def secrets(self) -> list[str]:
        """The values in `.env` that nobody may see."""
        return [self.env[name] for name in SECRETS]

    def url(self, variable: str = "GATEWAY_PORT") -> str:
        """The published address of the service whose port `variable` is."""
        return f"http://127.0.0.1:{self.env[variable]}"

    def compose(self, *arguments: str) -> str:
        """Run Compose; what it prints."""
        # What .env says counts, not what the shell of the tests happens to have.
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ}
        return run([*self.command, "--project-name", PROJECT, *arguments], cwd=self.folder, env=inherited)

    def container(self, service: str) -> str:
        """Id of the service's container, also of one that has ended."""
        label = f"label=com.docker.compose.service={service}"
        mine = ("--filter", f"label=com.docker.compose.project={PROJECT}", "--filter", label)
        return docker("ps", "--all", "--quiet", "--no-trunc", *mine).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        """All that Docker knows of the service's container."""
        found: list[dict[str, Any]] = json.loads(docker("inspect", self.container(service)))
        return found[0]

    def execute(self, service: str, *argv: str, check: bool = True) -> str:
        """Run a command in the service's container."""
        return docker("exec", self.container(service), *argv, check=check)

    def get_inside(self, url: str) -> Any:
        """The JSON at an address of the inner network, asked for by the gateway's container."""
        return json.loads(self.execute("gateway", "python3", "-c", _FETCH_SCRIPT, url))

    def post(self, path: str, body: dict[str, object]) -> httpx.Response:
        """POST to the gateway, for an answer that is computed now."""
        headers = {"authorization": f"Bearer {self.key}", "cache-control": "no-cache"}
        return httpx.post(self.url() + path, json=body, headers=headers, timeout=120)

    def build(self) -> None:
        """Build the images."""
        started = time.monotonic()
        self.compose("--profile", "monitoring", "build")
        self.seconds["build"] = time.monotonic() - started

    def give_models(self, models: Path) -> None:
        """Copy trained stand-ins into the volume, as the user that the containers have."""
        copy = ("--entrypoint", "cp", "--volume", f"{models}:/given:ro", "models", "-r", "/given/.", "/models/")
        self.compose("run", "--rm", "--no-deps", *copy)

    def up(self) -> None:
        """Start everything but Grafana, and wait until all is healthy."""
        started = time.monotonic()
        with _Events(self.events):
            try:
                self.compose("up", "--detach", *LONG_RUNNING)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{self.compose('logs', '--tail', '20')}") from None
            self.wait_healthy()
        self.seconds.setdefault("start", time.monotonic() - started)

    def wait_healthy(self, *services: str) -> None:
        """Wait until the services (all of them, if none is named) are healthy."""
        deadline = time.monotonic() + START_SECONDS
        for service in services or SERVING:
            while (health := self.inspect(service)["State"]["Health"]["Status"]) != "healthy":
                log = docker("logs", "--tail", "40", self.container(service))
                assert time.monotonic() < deadline, f"{service} is {health}:\n{log}"
                time.sleep(1)

    def down(self, *, volumes: bool = False) -> None:
        """Remove the containers, and with `volumes` what they keep."""
        self.compose("down", "--remove-orphans", *(["--volumes"] if volumes else []))


class _Events:
    """Writes down what happens to the project's containers."""

    def __init__(self, into: list[str]) -> None:
        self._into = into

    def __enter__(self) -> None:
        wanted = ("event=start", "event=health_status", "event=die", f"label=com.docker.compose.project={PROJECT}")
        filters = [argument for one in wanted for argument in ("--filter", one)]
        line = '{{.Action}} {{index .Actor.Attributes "com.docker.compose.service"}}'
        command = ["docker", "events", *filters, "--format", line]
        self._watching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __exit__(self, *_: object) -> None:
        self._watching.terminate()
        self._into.extend(self._watching.communicate(timeout=30)[0].splitlines())


def deploy(folder: Path, compose: list[str], *, on_local_base: bool) -> Deployment:
    """Copy what git would commit into `folder`, with an `.env` of new keys; nothing is started.

    Args:
        folder: is empty.
        compose: the command.
        on_local_base: take the bases that are made here, in place of the pinned ones.
    """
    listed = run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT).splitlines()
    wheels = [f"wheels/{path.name}" for path in (ROOT / "wheels").glob("*.whl")]
    for name in [*listed, *wheels]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    env = {
        "API_KEY": secrets.token_hex(24),
        "REDIS_PASSWORD": secrets.token_hex(24),
        "HF_TOKEN": f"hf_{secrets.token_hex(17)}",
        "HF_HUB_OFFLINE": "true",
        "ALLOW_STAND_INS": "true",
        "LLM_MODEL": LLM,
        "LLM_MAX_SEQS": "16",
        **{name: str(free_port()) for name in ("GATEWAY_PORT", "VLLM_PORT", "GRAFANA_PORT")},
    }
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    files = ["compose.yaml", "compose.cpu.yaml", *(["tests/compose/compose.local.yaml"] if on_local_base else [])]
    chosen = [argument for name in files for argument in ("--file", name)]
    return Deployment(folder, [*compose, *chosen], env)
