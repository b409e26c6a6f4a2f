"""What is in the images, and what Compose makes of the files."""

from pathlib import Path

import pytest

from tests.compose import secret_scan
from tests.compose.deployment import BUILT, Deployment
from tests.compose.engine import docker

COMPILERS = ("gcc", "cc", "g++", "clang", "make", "ld", "rustc", "go")
LEAKY = "onecard-test-leaky"


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


def test_no_secret_is_in_an_image(project: Deployment) -> None:
    """No value of .env in a variable, a step of the build or a layer; no key, and no package index of the builder's."""
    names = [image(project, service) for service in BUILT]
    assert [told for name in names for told in secret_scan.secrets_in_settings(name, project.secrets)] == []
    assert secret_scan.secrets_in_layers(names, project.secrets) == []


def test_a_leak_is_found_wherever_it_is(project: Deployment, tmp_path: Path) -> None:
    """By its value, its looks or its file's name, also under a layer that hides it, and in a container."""
    secret = project.key
    key = f"-----BEGIN PRIVATE KEY-----\n{'A' * 64}\n-----END PRIVATE KEY-----\n"
    planted = {"value": f"key={secret}", "looks": key, "name/.env": "", "hidden/value": secret}
    for name, text in {**planted, "clean/value": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    steps = ["FROM scratch", "COPY value looks /", "COPY name /name", "COPY hidden /hidden", "COPY clean /hidden"]
    (tmp_path / "Dockerfile").write_text("\n".join([*steps, f"ENV SHOWN={secret} PIP_INDEX_URL=https://x"]))
    docker("build", "--tag", LEAKY, str(tmp_path))
    container = docker("create", LEAKY, "nothing").strip()
    try:
        assert sorted(secret_scan.secrets_in_layers([LEAKY], [secret])) == sorted(planted)
        assert sorted(secret_scan.secrets_in_container(container, [secret])) == ["looks", "name/.env", "value"]
        assert secret_scan.secrets_in_settings(LEAKY, [secret]) == [
            f"{LEAKY}: a secret",
            f"{LEAKY}: PIP_INDEX_URL=https://x",
        ]
    finally:
        docker("rm", container)
        docker("rmi", LEAKY)


@pytest.mark.parametrize("service", BUILT)
def test_no_image_has_stand_ins_or_their_trainer(project: Deployment, service: str) -> None:
    """Whoever deploys must not be served a toy: models are mounted, or fetched."""
    look = "find / -xdev '(' -name 'standins' -o -name 'onecard--standin*' ')' 2>/dev/null"
    said = docker("run", "--rm", "--entrypoint", "sh", image(project, service), "-c", look, check=False)
    assert said.split() == []


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
