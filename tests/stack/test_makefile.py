"""What `make` does before anything is installed: which builds it wants, and when it installs them anew."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from onecard.hardware import has_nvidia_gpu, nvidia_trace

ROOT = Path(__file__).parents[2]
NEEDED = ("constraints.txt", "constraints-cuda.txt", "hashes.txt", "tools/install.py")
"""What the Makefile looks at to see whether something is new."""


def put(path: Path, text: str = "") -> None:
    """A file below folders that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile, whose machine is below the folder `machine`, and a Python that only takes notes."""
    text = (ROOT / "Makefile").read_text()
    put(tmp_path / "Makefile", re.sub(" /(?=dev/nvidia|dev/dxg|usr/)", f" {tmp_path}/machine/", text))
    for name in NEEDED:
        put(tmp_path / name)
    put(tmp_path / "python", '#!/bin/sh\nmkdir -p .venv/bin\necho "$*" >> installations\n[ ! -e refused ]\n')
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def make(checkout: Path, *arguments: str, code: int = 0, **variables: str) -> str:
    """What `make` prints, with this exit code, on a machine where nothing is set but `variables`."""
    command = ["make", "-s", f"PYTHON={checkout}/python", *arguments]
    environment = {"PATH": os.environ["PATH"], **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=checkout)
    assert done.returncode == code, done.stderr
    return done.stdout


def flavour(checkout: Path, **variables: str) -> str:
    """Which builds `make install` installs."""
    return make(checkout, "--eval", "show: ; @echo $(FLAVOUR)", "show", **variables).strip()


def installations(checkout: Path) -> list[str]:
    """The flavours that were installed, one after the other."""
    file = checkout / "installations"
    return [line.split()[-1] for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize(
    ("files", "nvidia"),
    [
        ((), False),
        (("dev/dxg",), False),
        (("dev/dxg", "usr/lib/wsl/drivers/iigd_dch.inf_amd64_1/libdrm.so"), False),
        (("usr/lib/wsl/lib/libcuda.so.1",), False),
        (("dev/dxg", "usr/lib/wsl/lib/libcuda.so.1"), True),
        # NVIDIA's container toolkit mounts it from where Windows stores the driver.
        (("dev/dxg", "usr/lib/wsl/drivers/nv_dispi.inf_amd64_1/libcuda.so.1.1"), True),
        (("dev/nvidia0",), True),
    ],
)
def test_any_makers_graphics_under_wsl_are_no_nvidia_gpu(checkout: Path, files: tuple[str, ...], nvidia: bool) -> None:
    """All have the same device; NVIDIA's come with CUDA's library. What 'make install' installs follows that, too."""
    machine = checkout / "machine"
    for file in files:
        put(machine / file)
    assert has_nvidia_gpu(machine) == nvidia
    assert nvidia_trace(machine) == ("there is an NVIDIA GPU" if nvidia else None)
    assert flavour(checkout) == ("cuda" if nvidia else "cpu")


@pytest.mark.parametrize(
    ("dotenv", "variables", "expected"),
    [
        ("", {}, "cuda"),
        ("", {"USE_GPU": "False"}, "cpu"),
        ("USE_GPU=false", {}, "cpu"),
        ("export use_gpu = '0'  # not here", {}, "cpu"),
        ("#USE_GPU=false\nUSE_GPU=true", {}, "cuda"),
        ("USE_GPU=false", {"USE_GPU": "true"}, "cuda"),
        ("USE_GPU=false", {"FLAVOUR": "cuda"}, "cuda"),
    ],
)
def test_who_wants_no_gpu_gets_the_builds_for_the_cpu(
    checkout: Path, dotenv: str, variables: dict[str, str], expected: str
) -> None:
    """vLLM's CUDA build does not run without a card. The setting is read as the stack reads it."""
    put(checkout / "machine/dev/nvidia0")
    put(checkout / ".env", f"API_KEY=x\n{dotenv}\n")
    assert flavour(checkout, **variables) == expected


def test_each_change_of_builds_installs_them(checkout: Path) -> None:
    """Back again, too: what was installed before is not there any more. Once more changes nothing."""
    for wanted in ("cuda", "cpu", "cuda", "cuda"):
        make(checkout, "install", f"FLAVOUR={wanted}")
    assert installations(checkout) == ["cuda", "cpu", "cuda"]


def test_a_card_that_is_not_there_yet_changes_nothing(checkout: Path) -> None:
    """While a machine boots, its driver may come later than the stack. Who takes the card away says so."""
    put(checkout / "machine/dev/nvidia0")
    make(checkout, "install")
    (checkout / "machine/dev/nvidia0").unlink()
    make(checkout, "install")
    assert installations(checkout) == ["cuda"]
    put(checkout / "refused")
    make(checkout, "install", "FLAVOUR=cpu", code=2)  # As under a stack that runs.
    assert flavour(checkout) == "cuda"
    (checkout / "refused").unlink()
    make(checkout, "install", "FLAVOUR=cpu")
    make(checkout, "install")
    assert installations(checkout) == ["cuda", "cpu", "cpu"]


@pytest.mark.parametrize("target", ["status", "logs"])
def test_a_look_at_the_stack_installs_nothing(checkout: Path, target: str) -> None:
    """A stack that runs keeps its files, however new the pins are. A fresh clone is told what to type."""
    assert "make up" in make(checkout, target, code=2)
    put(checkout / ".venv/bin/onecard", '#!/bin/sh\necho "onecard $*"\n')
    (checkout / ".venv/bin/onecard").chmod(0o755)
    assert make(checkout, target).startswith(f"onecard {target}")
    assert installations(checkout) == []


def test_a_stack_without_its_environment_is_not_said_not_to_run(checkout: Path) -> None:
    """Whoever removes .venv before 'make down' is told how to stop it."""
    assert "nothing runs" in make(checkout, "down")
    put(checkout / ".onecard/run/supervisord.pid", f"{os.getpid()}\n")
    assert "'make install', then 'make down'" in make(checkout, "down", code=2)


def test_a_new_pin_gets_its_hash_before_it_is_installed(checkout: Path) -> None:
    """An installation refuses a pin without one. What looks hashes up has to be installed already."""
    put(checkout / "tools/lock.sh", '#!/bin/sh\necho "lock $*"\n')
    (checkout / "tools/lock.sh").chmod(0o755)
    assert "make install" in make(checkout, "hashes", code=2)
    put(checkout / ".venv/bin/uv")
    (checkout / ".venv/bin/uv").chmod(0o755)
    assert make(checkout, "hashes") == "lock hashes\n"
    assert installations(checkout) == []
