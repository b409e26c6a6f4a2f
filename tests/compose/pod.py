"""The pod's image as one container, on this machine's network: there the double of RunPod's API is, too."""

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.compose.base_images import LOCAL_BASE, ROOT
from tests.compose.engine import docker
from tests.runpod.fake_runpod import FakeRunPod
from tests.support import LLM, free_port

IMAGE = "onecard-test-pod"
VOLUME = "onecard-test-workspace"
NAME = "onecard-test-pod"
START_SECONDS = 600
POD_KEY = "rpa_POD0123456789"
POD_ID = "abc"
IDLE_MINUTES = "0.1"
PORTS = ("GATEWAY_PORT", "VLLM_PORT", "SENTIMENT_PORT", "EMBEDDING_PORT", "REVIEW_PORT", "REDIS_PORT")


@dataclass(frozen=True)
class Pod:
    """A running container, and the API that it may call."""

    runpod: FakeRunPod
    key: str = field(default_factory=lambda: secrets.token_hex(24))
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in PORTS})

    def url(self, variable: str = "GATEWAY_PORT") -> str:
        """The address of the part whose port `variable` is."""
        return f"http://127.0.0.1:{self.ports[variable]}"

    def execute(self, *argv: str, check: bool = True) -> str:
        """Run a command in the container, as root."""
        return docker("exec", NAME, *argv, check=check)

    def states(self) -> dict[str, str]:
        """Each part's state, as `onecard status` shows it: `ready`, `not ready` or `stopped`."""
        rows = self.execute("onecard", "status", check=False).splitlines()[1:]
        return {row.split()[0]: " ".join(re.findall("not ready|ready|stopped", row)) for row in rows}

    def log(self) -> str:
        """What RunPod would show."""
        return docker("logs", NAME)

    def sentiment(self) -> httpx.Response:
        """A request that is computed."""
        headers = {"authorization": f"Bearer {self.key}", "cache-control": "no-cache"}
        return httpx.post(f"{self.url()}/v1/sentiment", json={"input": "국물이 진해요"}, headers=headers, timeout=60)

    def restaurants(self) -> list[dict[str, object]]:
        """Those that have reviews."""
        headers = {"authorization": f"Bearer {self.key}"}
        found: list[dict[str, object]] = httpx.get(f"{self.url()}/v1/restaurants", headers=headers).json()["data"]
        return found

    def ready(self) -> bool:
        """All parts can work: the LLM service waits for the encoders, and the gateway is ready without it."""
        try:
            answers = [httpx.get(f"{self.url(name)}/health/ready", timeout=5) for name in ("GATEWAY_PORT", "VLLM_PORT")]
            return all(answer.status_code == 200 for answer in answers)
        except httpx.TransportError:
            return False

    def wait_ready(self) -> None:
        """Wait until all parts can work."""
        deadline = time.monotonic() + START_SECONDS
        while not self.ready():
            assert docker("inspect", "--format", "{{.State.Running}}", NAME).strip() == "true", self.log()[-4000:]
            assert time.monotonic() < deadline, self.log()[-4000:]
            time.sleep(1)

    def start(self) -> None:
        """Start the container on the volume, with what RunPod sets in a pod."""
        own = {
            **{name: str(port) for name, port in self.ports.items()},
            "API_KEY": self.key,
            "HF_HUB_OFFLINE": "true",
            "ALLOW_STAND_INS": "true",
            "LLM_MODEL": LLM,
            "LLM_MAX_SEQS": "16",
            "IDLE_STOP_MINUTES": IDLE_MINUTES,
            "RUNPOD_API_URL": self.runpod.url,
            "RUNPOD_API_KEY": POD_KEY,
            "RUNPOD_POD_ID": POD_ID,
        }
        settings = [argument for name, value in own.items() for argument in ("--env", f"{name}={value}")]
        place = ("--network", "host", "--shm-size", "1g", "--volume", f"{VOLUME}:/workspace")
        docker("run", "--detach", "--name", NAME, *place, *settings, IMAGE)


def build(*, on_local_base: bool) -> None:
    """Build the image for a CPU."""
    base = ("--build-arg", f"BASE={LOCAL_BASE}") if on_local_base else ()
    docker("build", *base, "--file", str(ROOT / "runpod" / "cpu.Dockerfile"), "--tag", IMAGE, str(ROOT))


@contextmanager
def running(runpod: FakeRunPod, models: Path) -> Iterator[Pod]:
    """A pod that is ready, on the stand-ins in `models`; it and its volume are removed at the end."""
    _remove()
    runpod.keys = {POD_KEY}
    runpod.add_pod(POD_ID, "RUNNING")
    pod = Pod(runpod)
    try:
        mounts = ("--volume", f"{VOLUME}:/workspace", "--volume", f"{models}:/given:ro")
        docker("run", "--rm", "--entrypoint", "cp", *mounts, IMAGE, "-r", "/given", "/workspace/models")
        pod.start()
        pod.wait_ready()
        yield pod
    finally:
        _remove()


def _remove() -> None:
    docker("rm", "--force", NAME, check=False)
    docker("volume", "rm", "--force", VOLUME, check=False)
