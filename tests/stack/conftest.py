"""The command `onecard`, run as a person runs it, in a home and on ports of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import httpx
import psutil
import pytest
from rich.console import Console

from onecard_stack.processes import orphans
from onecard_stack.settings import StackSettings
from onecard_stack.stack import Stack
from onecard_stack.supervision.supervisor import Supervisor
from tests.support import KEY, free_port

PORTS = ("GATEWAY_PORT", "VLLM_PORT", "SENTIMENT_PORT", "EMBEDDING_PORT", "REVIEW_PORT", "REDIS_PORT")
INHERITED = ("PATH", "HOME", "LANG", "PYTHONPATH", "TMPDIR")
UP_SECONDS = 280


@dataclass(frozen=True)
class Workspace:
    """A working directory, with the environment of everything that is run there."""

    folder: Path
    env: dict[str, str]

    @property
    def run_folder(self) -> Path:
        """Socket, configuration and lock."""
        return self.folder / ".onecard" / "run"

    @property
    def logs(self) -> Path:
        """One log for each part."""
        return self.folder / ".onecard" / "logs"

    @property
    def supervisor(self) -> Supervisor:
        """The one that runs here, or would."""
        return Supervisor(self.run_folder)

    def port(self, variable: str) -> int:
        """The port that `variable` holds."""
        return int(self.env[variable])

    def url(self, variable: str = "GATEWAY_PORT") -> str:
        """The address of the part whose port `variable` holds."""
        return f"http://127.0.0.1:{self.port(variable)}"

    def start(self, *arguments: str, **more: str) -> "subprocess.Popen[str]":
        """Start `onecard` with `arguments`."""
        return self.start_python("-m", "onecard_stack", *arguments, **more)

    def start_python(self, *arguments: str, **more: str) -> "subprocess.Popen[str]":
        """Start Python with `arguments`."""
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**self.env, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """Run `onecard` with `arguments` to its end."""
        process = self.start(*arguments, **more)
        try:
            out, err = process.communicate(timeout=UP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def processes(self) -> list[psutil.Process]:
        """All that belongs to this stack."""
        return orphans.find(self.run_folder)

    def call(self, path: str, body: Mapping[str, object]) -> httpx.Response:
        """POST to the gateway, for an answer that is computed now: kept ones come also from a service that is away."""
        headers = {"authorization": f"Bearer {KEY}", "cache-control": "no-cache"}
        return httpx.post(self.url() + path, json=body, headers=headers, timeout=30)

    def assert_refused(self, result: "subprocess.CompletedProcess[str]", *words: str) -> None:
        """One line that holds the words, an exit code that is not 0, and nothing left running."""
        assert result.returncode not in (0, 130)
        assert re.fullmatch(r"onecard: [^\n]+\n", result.stderr), result.stderr
        missing = [word for word in words if word not in result.stderr]
        assert not missing, f"{missing} not in {result.stderr}"
        assert "Traceback" not in result.stdout
        assert self.processes() == []


def make_workspace(folder: Path, models: Path) -> Workspace:
    """A place on free ports; models are taken from `models`."""
    env = {name: value for name, value in os.environ.items() if name in INHERITED}
    env |= {port: str(free_port()) for port in PORTS}
    env |= {"MODEL_CACHE_PATH": str(models), "HF_HUB_OFFLINE": "1", "USE_GPU": "false", "API_KEY": KEY}
    return Workspace(folder, env)


@pytest.fixture
def place(tmp_path: Path, shallow_cache: Path) -> Iterator[Workspace]:
    """A place where a test may break things."""
    made = make_workspace(tmp_path, shallow_cache)
    yield made
    orphans.terminate_all(made.run_folder, 5)


@pytest.fixture
def own_stack(monkeypatch: pytest.MonkeyPatch) -> Callable[[Workspace], Stack]:
    """The stack of a place, as an object in this process."""

    def make(place: Workspace) -> Stack:
        for name, value in {**place.env, "ONECARD_HOME": str(place.folder / ".onecard")}.items():
            monkeypatch.setenv(name, value)
        return Stack(StackSettings(), Console(file=StringIO()))

    return make


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, shallow_cache: Path) -> Iterator[Workspace]:
    """The whole stack, started by `onecard up`, on the stand-ins."""
    made = make_workspace(tmp_path_factory.mktemp("stack"), shallow_cache)
    result = made.run("up")
    assert result.returncode == 0, result.stdout + result.stderr
    (made.folder / "up.txt").write_text(result.stdout + result.stderr)
    yield made
    made.run("down")
    orphans.terminate_all(made.run_folder, 5)
