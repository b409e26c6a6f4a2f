"""What is in the images, and what Compose makes of the files."""

import subprocess

import pytest

from tests.compose.deployment import BUILT, Deployment
from tests.compose.engine import docker

COMPILERS = ("gcc", "cc", "g++", "clang", "make", "ld", "rustc", "go")


def image(project: Deployment, service: str) -> str:
    """Name of the service's image."""
    return f"onecard-{service}" if service in ("review", "gateway") else f"onecard-{service}:cpu"


def test_compose_reads_its_files_without_a_word_of_complaint(project: Deployment) -> None:
    """Those for a card and those for a CPU, with monitoring."""
    plain = [word for word in project.command if not word.endswith((".yaml", "--file"))]
    on_card = Deployment(project.folder, plain, project.env)
    for one in (project, on_card):
        assert "warning" not in one.compose("--profile", "monitoring", "config").lower()
    # The override reserves the same card for three services.
    assert on_card.compose("config").count("driver: nvidia") == 3
    assert "nvidia" not in project.compose("config")


@pytest.mark.parametrize("service", BUILT)
def test_no_secret_is_in_an_image(project: Deployment, service: str) -> None:
    """The values of .env are in no layer, no variable and no step of the build."""
    name = image(project, service)
    secret = [project.env[key].encode() for key in ("API_KEY", "REDIS_PASSWORD")]
    told = docker("history", "--no-trunc", name) + docker("inspect", name)
    assert not [value for value in secret if value.decode() in told]
    longest = max(map(len, secret))
    with subprocess.Popen(["docker", "save", name], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        tail = b""
        while chunk := saving.stdout.read(1 << 24):
            window = tail + chunk
            assert not [value for value in secret if value in window]
            tail = window[-longest:]
    assert saving.returncode == 0


@pytest.mark.parametrize("service", BUILT)
def test_an_image_holds_what_runs_and_no_more(project: Deployment, service: str) -> None:
    """A user of its own, no compiler, no .env."""
    look = f"id -u; for name in {' '.join(COMPILERS)}; do command -v $name; done; find / -xdev -name .env 2>/dev/null"
    said = docker("run", "--rm", "--entrypoint", "sh", image(project, service), "-c", look, check=False)
    assert said.split() == ["10001"]


def test_the_large_layer_is_kept_once(project: Deployment) -> None:
    """Encoders and models share what lies under their own code."""
    layers = []
    for service in ("sentiment", "embedding", "models"):
        shown = docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image(project, service))
        layers.append(shown.strip("[]\n").split(","))
    assert layers[0][:-1] == layers[1][:-1] == layers[2][:-1]
